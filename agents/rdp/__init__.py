"""Services of remote desktops: servers, their processes, their sessions."""
