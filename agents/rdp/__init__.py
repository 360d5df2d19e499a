"""The rooms of RDP servers: server manager, xrdp, controller, monitor."""
