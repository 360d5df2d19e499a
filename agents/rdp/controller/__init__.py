"""The controller: desktop sessions, their connections and their recordings."""
