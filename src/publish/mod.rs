//! From an image root to a registered image: boot artifacts, manifest, upload, register, roll back.
