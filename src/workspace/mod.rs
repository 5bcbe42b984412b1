//! Opens an image root (overlay or unpacked), puts in what the session needs and takes it out again.
