//! Standalone from outside: the IMS API against a transcript of the real service, the S3 endpoint
//! with the clients people use, jobs as child processes. Needs root, awscli and s3cmd.

mod access;
mod crash;
mod damage;
mod jobs;
mod names;
mod publication;
mod replay;
mod s3_clients;
mod s3_semantics;
mod sdk;
mod space;
mod support;
mod trash;
