//! Appends events to the host's recording before a command is forwarded.
