//! Permissions in the store: its owner may do everything, a job what its `grants` allow.

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::*;
use s3s::path::S3Path;
use s3s::{S3Request, S3Result, s3_error};
use secrecy::ExposeSecret;

use super::objects::source;
use crate::standalone::Keys;
use crate::standalone::grants::{Grant, Grants};

/// Knows all keys, and what each may do.
#[derive(Debug, Clone)]
pub struct Access {
    owner: Keys,
    grants: Grants,
}

impl Access {
    pub fn new(owner: Keys, grants: Grants) -> Self {
        Self { owner, grants }
    }

    /// The owner may; a job if its rights say so.
    fn check<T>(
        &self,
        request: &S3Request<T>,
        may: impl FnOnce(&Grant, &T) -> bool,
    ) -> S3Result<()> {
        let key = request.credentials.as_ref().map(|it| it.access_key.as_str());
        self.judge(key, |grant| may(grant, &request.input))
    }

    fn judge(&self, key: Option<&str>, may: impl FnOnce(&Grant) -> bool) -> S3Result<()> {
        let allowed = match key {
            None => return Err(s3_error!(AccessDenied, "a signature is needed")),
            Some(key) if key == self.owner.access => true,
            Some(key) => self.grants.with_key(key, may).unwrap_or(false),
        };
        if allowed {
            Ok(())
        } else {
            Err(s3_error!(
                AccessDenied,
                "these keys belong to a job, which may only use the objects of its images"
            ))
        }
    }
}

#[async_trait::async_trait]
impl S3Auth for Access {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.owner.access {
            return Ok(SecretKey::from(self.owner.secret.expose_secret()));
        }
        let found = self.grants.with_key(access_key, |grant| SecretKey::from(grant.secret_key()));
        found.ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    /// Runs before everything else. Operations that are not listed here are only for the owner.
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let key = cx.credentials().map(|it| it.access_key.as_str());
        let (operation, path) = (cx.s3_op().name(), cx.s3_path());
        self.judge(key, |grant| match (operation, path) {
            ("GetObject" | "HeadObject", S3Path::Object { bucket, key }) => {
                grant.may_read(bucket, key)
            }
            (
                "PutObject"
                | "DeleteObject"
                | "CreateMultipartUpload"
                | "UploadPart"
                | "ListParts"
                | "CompleteMultipartUpload"
                | "AbortMultipartUpload"
                | "CopyObject"
                | "UploadPartCopy",
                S3Path::Object { bucket, key },
            ) => grant.may_write(bucket, key),
            ("HeadBucket" | "GetBucketLocation", S3Path::Bucket { .. }) => true,
            // What they are about is not in the path; see below.
            (
                "ListObjects" | "ListObjectsV2" | "ListMultipartUploads" | "DeleteObjects",
                S3Path::Bucket { .. },
            ) => true,
            _ => false,
        })
    }

    async fn copy_object(&self, req: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        let (bucket, key) = source(&req.input.copy_source)?;
        self.check(req, |grant, _| grant.may_read(&bucket, &key))
    }

    async fn upload_part_copy(&self, req: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        let (bucket, key) = source(&req.input.copy_source)?;
        self.check(req, |grant, _| grant.may_read(&bucket, &key))
    }

    async fn list_objects(&self, req: &mut S3Request<ListObjectsInput>) -> S3Result<()> {
        self.check(req, |grant, it| grant.may_list(&it.bucket, it.prefix.as_deref().unwrap_or("")))
    }

    async fn list_objects_v2(&self, req: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        self.check(req, |grant, it| grant.may_list(&it.bucket, it.prefix.as_deref().unwrap_or("")))
    }

    async fn list_multipart_uploads(
        &self,
        req: &mut S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<()> {
        self.check(req, |grant, it| grant.may_list(&it.bucket, it.prefix.as_deref().unwrap_or("")))
    }

    async fn delete_objects(&self, req: &mut S3Request<DeleteObjectsInput>) -> S3Result<()> {
        self.check(req, |grant, it| {
            let mut keys = it.delete.objects.iter();
            keys.all(|object| grant.may_write(&it.bucket, &object.key))
        })
    }
}
