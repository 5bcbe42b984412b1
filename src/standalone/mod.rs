//! IMS API and S3 endpoint on one machine, with a local job launcher.
