//! `ims-job-agent`: what runs inside an image-management job.

fn main() {}
