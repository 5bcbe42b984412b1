//! Standalone from outside: the IMS API against a transcript of the real service, the S3 endpoint
//! with the clients people use, jobs as child processes. Needs root, awscli, s3cmd, curl and util-linux.

#![allow(
    clippy::disallowed_methods,
    reason = "one test runs itself again; a client sleeps on its own thread"
)]

mod access;
mod attackers;
mod crash;
mod damage;
mod jobs;
#[path = "../support/mod.rs"]
mod lab;
mod names;
mod publication;
mod replay;
mod rights;
mod s3_clients;
mod s3_semantics;
mod sdk;
mod space;
mod support;
mod trash;
