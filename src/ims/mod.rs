//! The IMS REST API as a client: OAuth tokens, records, status patches. Called by `job` and `publish`.
