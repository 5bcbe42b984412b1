//! Permissions of jobs and CFS sessions: each has its own token and S3 keys, for its own record and
//! objects.
//!
//! `launcher` and `cfs` grant and revoke them, `api` and `s3` check them. Each is a file in the
//! data directory, because an agent keeps running for a while when standalone is restarted.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::config::Keys;
use super::keys;
use s3_client::Object;

/// The bucket in which images are created.
const IMAGES: &str = "boot-images";
/// Objects by which an agent finds out whether it may write, each named after its job.
const PROBES: &str = "ims-job-agent-probe";
/// How many image records one job may make: more is a fault of it.
const MOST_IMAGES: usize = 256;

/// All that are given. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Grants {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    given: RwLock<HashMap<Uuid, Grant>>,
    /// Held over a change of memory and disk.
    changing: tokio::sync::Mutex<()>,
}

/// What one job may do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grant {
    /// The id of the job; a session of CFS has one of its own.
    id: Uuid,
    /// `None`: a session of CFS, which has no record in IMS.
    job: Option<Uuid>,
    token: String,
    access_key: String,
    secret_key: String,
    reads: Reads,
    /// The images it has made, and whether each has a link: its objects are complete then and stay.
    made: BTreeMap<Uuid, bool>,
}

/// What was there before the job, and is needed by it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reads {
    pub image: Option<Uuid>,
    pub recipe: Option<Uuid>,
    pub public_key: Option<Uuid>,
    /// `s3://bucket/key`
    pub objects: Vec<String>,
}

/// What a job authenticates with.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub token: SecretString,
    pub keys: Keys,
}

impl Grants {
    /// Opens the directory, made if missing, with what was given before a restart. Blocking.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        super::data::make_private(&directory)?;
        let mut given = HashMap::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match serde_json::from_slice::<Grant>(&std::fs::read(&path)?) {
                Ok(grant) => _ = given.insert(grant.id, grant),
                // Requests with it are refused; nothing else depends on it.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot restore the \
                        permissions of a job");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        let (given, changing) = (RwLock::new(given), tokio::sync::Mutex::default());
        Ok(Self { inner: Arc::new(Inner { directory, given, changing }) })
    }

    /// Rights for a job, or for what has no record (`job` is `None`); replaces its old ones.
    pub async fn give(&self, id: Uuid, job: Option<Uuid>, reads: Reads) -> io::Result<Credentials> {
        let credentials = Credentials { token: keys::make_token(), keys: keys::make() };
        let grant = Grant {
            id,
            job,
            token: credentials.token.expose_secret().to_owned(),
            access_key: credentials.keys.access.clone(),
            secret_key: credentials.keys.secret.expose_secret().to_owned(),
            reads,
            made: BTreeMap::new(),
        };
        let _changing = self.inner.changing.lock().await;
        self.store(grant).await?;
        Ok(credentials)
    }

    /// Takes the rights of a job: nothing of it may run any more.
    pub async fn take(&self, id: Uuid) {
        let _changing = self.inner.changing.lock().await;
        self.write(|given| given.remove(&id));
        if let Err(error) = std::fs::remove_file(self.path(id))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(job = %id, %error, "cannot remove the stored permissions of a job: a \
                restart would restore them");
        }
    }

    /// Changes rights, on disk first; gives what `edit` returned, `None` if they were taken meanwhile.
    pub async fn change<T>(
        &self,
        id: Uuid,
        edit: impl FnOnce(&mut Grant) -> T,
    ) -> io::Result<Option<T>> {
        let _changing = self.inner.changing.lock().await;
        let Some(mut grant) = self.with(id, Grant::clone) else { return Ok(None) };
        let result = edit(&mut grant);
        self.store(grant).await?;
        Ok(Some(result))
    }

    /// Reads permissions; `None` if this id has none.
    pub fn with<T>(&self, id: Uuid, look: impl FnOnce(&Grant) -> T) -> Option<T> {
        self.read(|given| given.get(&id).map(look))
    }

    /// Whose token this is.
    pub fn of_token(&self, sent: &str) -> Option<Uuid> {
        self.read(|given| {
            let mut all = given.values();
            all.find(|grant| same(sent, &grant.token)).map(|grant| grant.id)
        })
    }

    /// The rights that go with an S3 access key.
    pub fn with_key<T>(&self, access_key: &str, look: impl FnOnce(&Grant) -> T) -> Option<T> {
        self.read(|given| given.values().find(|grant| grant.access_key == access_key).map(look))
    }

    /// The ids, and whether each is a job's.
    pub fn all(&self) -> Vec<(Uuid, bool)> {
        self.read(|given| given.values().map(|grant| (grant.id, grant.job.is_some())).collect())
    }

    async fn store(&self, grant: Grant) -> io::Result<()> {
        let (path, bytes) = (self.path(grant.id), serde_json::to_vec(&grant)?);
        let written = tokio::task::spawn_blocking(move || keys::write_private(&path, &bytes));
        written.await.map_err(io::Error::other)??;
        self.write(|given| given.insert(grant.id, grant));
        Ok(())
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.inner.directory.join(format!("{id}.json"))
    }

    fn read<T>(&self, look: impl FnOnce(&HashMap<Uuid, Grant>) -> T) -> T {
        look(&self.inner.given.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut HashMap<Uuid, Grant>) -> T) -> T {
        change(&mut self.inner.given.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Grant {
    pub fn job(&self) -> Option<Uuid> {
        self.job
    }

    /// What its job authenticates with.
    pub fn credentials(&self) -> Credentials {
        let (access, secret) = (self.access_key.clone(), self.secret_key.clone().into());
        Credentials { token: self.token.clone().into(), keys: Keys { access, secret } }
    }

    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    pub fn made(&self, image: Uuid) -> bool {
        self.made.contains_key(&image)
    }

    /// Writes down an image record that is about to be created; `false` if there are too many.
    #[must_use]
    pub fn make(&mut self, image: Uuid) -> bool {
        if self.made.len() >= MOST_IMAGES {
            return false;
        }
        self.made.insert(image, false);
        true
    }

    /// Whether the objects of an image that it made are to stay as they are.
    pub fn seal(&mut self, image: Uuid, sealed: bool) {
        if let Some(state) = self.made.get_mut(&image) {
            *state = sealed;
        }
    }

    /// Objects below an image of its own, those of what it works on, its probe.
    pub fn may_read(&self, bucket: &str, key: &str) -> bool {
        let base = self.reads.image.is_some_and(|image| bucket == IMAGES && below(key, image));
        let named = || self.reads.objects.contains(&Object::new(bucket, key).to_string());
        base || self.owns(bucket, key, true) || named()
    }

    /// Objects below an image of its own that has no link yet, and its probe.
    pub fn may_write(&self, bucket: &str, key: &str) -> bool {
        self.owns(bucket, key, false)
    }

    /// Whether all keys that begin with `prefix` are its own.
    pub fn may_list(&self, bucket: &str, prefix: &str) -> bool {
        self.owns(bucket, prefix, true)
    }

    fn owns(&self, bucket: &str, key: &str, sealed: bool) -> bool {
        let mut made = self.made.iter().filter(|(_, state)| sealed || !**state);
        bucket == IMAGES && (self.is_probe(key) || made.any(|(image, _)| below(key, *image)))
    }

    fn is_probe(&self, key: &str) -> bool {
        let own = key.strip_prefix(PROBES).and_then(|key| key.strip_prefix('/'));
        own == Some(&self.id.to_string())
    }
}

/// Whether a key is one of an image's objects.
pub fn below(key: &str, image: Uuid) -> bool {
    key.strip_prefix(&image.to_string()).is_some_and(|rest| rest.starts_with('/'))
}

/// Compares digests, so that the time reveals nothing about the secret.
pub fn same(sent: &str, secret: &str) -> bool {
    Sha256::digest(sent) == Sha256::digest(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rights_outlive_a_restart_and_end_with_the_job() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (job, image) = (Uuid::new_v4(), Uuid::new_v4());
        let grants = Grants::open(path.clone()).unwrap();
        let given = grants.give(job, Some(job), Reads::default()).await.unwrap();
        assert!(grants.change(job, |grant| grant.make(image)).await.unwrap().unwrap());

        let grants = Grants::open(path.clone()).unwrap();
        assert_eq!(grants.of_token(given.token.expose_secret()), Some(job));
        assert_eq!(grants.of_token("another"), None);
        let secret = grants.with_key(&given.keys.access, |grant| grant.secret_key().to_owned());
        assert_eq!(secret.as_deref(), Some(given.keys.secret.expose_secret()));
        assert_eq!(grants.with(job, |grant| grant.made(image)), Some(true));
        grants.take(job).await;
        assert_eq!(grants.of_token(given.token.expose_secret()), None);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        assert!(grants.change(job, |_| ()).await.unwrap().is_none());
    }

    #[test]
    fn objects_are_those_of_the_base_and_of_images_made() {
        let [job, base, made, other] = [1, 2, 3, 4].map(Uuid::from_u128);
        let mut grant = Grant {
            id: job,
            job: Some(job),
            token: "t".into(),
            access_key: "a".into(),
            secret_key: "s".into(),
            reads: Reads {
                image: Some(base),
                objects: vec!["s3://ims/recipes/1/recipe.tar.gz".into()],
                ..Reads::default()
            },
            made: BTreeMap::new(),
        };
        assert!(grant.make(made));
        let key = |id: Uuid, name: &str| format!("{id}/{name}");
        assert!(grant.may_read("boot-images", &key(base, "rootfs")));
        assert!(!grant.may_write("boot-images", &key(base, "rootfs")));
        assert!(!grant.may_list("boot-images", &key(base, "")));
        assert!(grant.may_read("ims", "recipes/1/recipe.tar.gz"));
        assert!(!grant.may_read("ims", "recipes/1/recipe.tar.gz2"));
        assert!(grant.may_write("boot-images", &key(made, "rootfs")));
        assert!(grant.may_list("boot-images", &key(made, "")));
        assert!(grant.may_write("boot-images", &format!("ims-job-agent-probe/{job}")));
        for (bucket, key) in [
            ("boot-images", key(other, "rootfs")),
            ("boot-images", key(other, "../").replace(&other.to_string(), &format!("{made}x"))),
            ("boot-images", made.to_string()),
            ("boot-images", String::new()),
            ("boot-images", format!("ims-job-agent-probe/{other}")),
            ("boot-images", format!("deleted/{made}/rootfs")),
            ("ims", key(made, "rootfs")),
        ] {
            assert!(!grant.may_read(bucket, &key), "{bucket}/{key}");
            assert!(!grant.may_write(bucket, &key), "{bucket}/{key}");
            assert!(!grant.may_list(bucket, &key), "{bucket}/{key}");
        }
        grant.seal(made, true);
        assert!(grant.may_read("boot-images", &key(made, "rootfs")));
        assert!(!grant.may_write("boot-images", &key(made, "rootfs")));
    }
}
