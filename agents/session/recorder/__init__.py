"""lucid-session-recorder: captures displays, files and made-up frames into `session.frames`."""
