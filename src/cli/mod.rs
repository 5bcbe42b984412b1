//! Argument structs, one file a command; each turns arguments into a configuration of a room.
