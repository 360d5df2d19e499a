"""Reading back: sessions, verification, bundles and exports, for whoever checks a recording."""
