//! Imports an export into an IMS: creates missing records, uploads missing artifacts, and keeps
//! existing ones. The import can be repeated: an interrupted run is resumed.

mod exported;
mod journal;
mod record;
mod supply;
mod upload;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::exported::Exported;
use self::journal::Journal;
pub use self::journal::NAME as JOURNAL;
pub use self::record::Action;
use self::record::Done;
pub use self::supply::Supply;
use super::layout::{self, Document, Part, SUMS, VERSION};
use super::sums;
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use crate::transfer::backend::Backend;
use crate::transfer::fetch;
use crate::transfer::verify;
use ims_client::{self as ims, Collection};

/// The options of an import.
#[derive(Debug, Clone)]
pub struct Options {
    pub include_deleted: bool,
    /// Replace objects that are there with other content.
    pub overwrite: bool,
    /// Only under their old ids: out of the trash, or not at all.
    pub keep_ids: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Records on their way at once, from a directory.
    pub jobs: usize,
    pub journal: PathBuf,
    /// Identifies the IMS in the journal.
    pub site_name: String,
}

/// What was done about one record.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub document: &'static str,
    pub old_id: String,
    pub name: String,
    /// None if it failed.
    pub action: Option<Action>,
    pub id: Option<String>,
    pub problem: Option<String>,
}

/// What was done about all.
#[derive(Debug, Default)]
pub struct Outcome {
    pub lines: Vec<Line>,
    /// It was cancelled, and the state of some records is unknown.
    pub stopped: bool,
    maps: BTreeMap<Collection, BTreeMap<String, String>>,
    etags: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Supply(#[from] supply::Error),
    #[error("this is not an export: it contains neither {} nor {}", "images.json", "recipes.json")]
    NoDocuments,
    #[error("{document} of the export is not a document of version {VERSION}")]
    Document { document: &'static str, source: serde_json::Error },
    #[error("{document} of the export has version {version:?}; only {VERSION:?} is supported")]
    Version { document: &'static str, version: String },
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("a request to IMS failed")]
    Ims(#[from] ims::Error),
    #[error(transparent)]
    Verify(#[from] verify::Error),
    #[error(transparent)]
    Upload(#[from] upload::Error),
    #[error("its id {0:?} is not valid")]
    Id(String),
    #[error("the document already contains a record with the id {0:?}")]
    Again(String),
    #[error(
        "the existing record links to {0}, not to the exported artifact, and that object is not \
         valid"
    )]
    OtherLink(String),
    #[error("verification after the upload failed: {0}")]
    Wrong(String),
    #[error(
        "cannot keep its id: IMS assigns ids itself, and the record is not in the trash; without \
         --keep-ids it gets a new id"
    )]
    KeepId,
    #[error("cannot write the map of ids and etags")]
    Map(#[source] fetch::Error),
}

/// Imports what `supply` has.
pub async fn import(
    backend: &Backend,
    supply: &Supply,
    options: &Options,
    cancel: &CancellationToken,
) -> Result<Outcome, Error> {
    let documents = documents(supply, options.include_deleted).await?;
    let sums = match supply.is_stream() {
        // It is the last file of a stream.
        true => HashMap::new(),
        false => supply
            .document(SUMS)
            .await?
            .map_or_else(HashMap::new, |bytes| sums::parse(&String::from_utf8_lossy(&bytes))),
    };
    let journal = Journal::open(&options.journal, &options.site_name)?;
    let there = there(backend, options, cancel).await?;
    let meter = Meter::start("import", Unit::Bytes, total(supply, &documents).await);
    let claimed = claimed(&documents, &there, &journal);
    let import =
        Import { backend, supply, options, cancel, sums, journal, there, claimed, meter: &meter };
    let mut outcome = Outcome::default();
    for (part, document) in &documents {
        import.part(*part, document, &mut outcome).await;
    }
    meter.finish();
    if !cancel.is_cancelled() {
        supply.finish().await?;
    }
    Ok(outcome)
}

/// One import on its way.
struct Import<'a> {
    backend: &'a Backend,
    supply: &'a Supply,
    options: &'a Options,
    cancel: &'a CancellationToken,
    meter: &'a Meter,
    sums: HashMap<String, String>,
    journal: Journal,
    /// The service's records at the start, by id.
    there: HashMap<Part, BTreeMap<String, Value>>,
    /// Ids that belong to a record of the export.
    claimed: Mutex<HashSet<String>>,
}

impl Import<'_> {
    async fn part(&self, part: Part, document: &Document, outcome: &mut Outcome) {
        let jobs = if self.supply.is_stream() { 1 } else { self.options.jobs.max(1) };
        let mut ids = HashSet::new();
        let records = document.records.iter().map(|record| Exported::new(part, record));
        let records = records.map(|exported| {
            let is_first = ids.insert(exported.id);
            async move {
                let done = match self.cancel.is_cancelled() {
                    true => Err(Error::Ims(ims::Error::Cancelled)),
                    false if is_first => self.record(&exported).await,
                    false => Err(Error::Again(exported.id.to_owned())),
                };
                (exported, done)
            }
        });
        let mut records = stream::iter(records).buffered(jobs);
        while let Some((exported, done)) = records.next().await {
            // What fails then is a consequence.
            if done.is_err() && self.cancel.is_cancelled() {
                outcome.stopped = true;
            } else {
                outcome.add(&exported, done);
            }
        }
    }

    fn has(&self, part: Part, id: &str) -> bool {
        self.records(part).contains_key(id)
    }

    fn is_live(&self, part: Part, id: &str) -> bool {
        self.has(Part { deleted: false, ..part }, id)
    }

    fn records(&self, part: Part) -> &BTreeMap<String, Value> {
        static NONE: BTreeMap<String, Value> = BTreeMap::new();
        self.there.get(&part).unwrap_or(&NONE)
    }

    fn is_claimed(&self, id: &str) -> bool {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// False if it belongs to another record already.
    fn claim(&self, id: &str) -> bool {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned())
    }
}

async fn documents(supply: &Supply, include_deleted: bool) -> Result<Vec<(Part, Document)>, Error> {
    let mut documents = Vec::new();
    for part in layout::parts(include_deleted) {
        let name = part.document();
        let Some(bytes) = supply.document(name).await? else { continue };
        let document: Document = serde_json::from_slice(&bytes)
            .map_err(|source| Error::Document { document: name, source })?;
        if document.version != VERSION {
            return Err(Error::Version { document: name, version: document.version });
        }
        documents.push((part, document));
    }
    match documents.iter().any(|(part, _)| part.collection != Collection::PublicKeys) {
        true => Ok(documents),
        false => Err(Error::NoDocuments),
    }
}

/// All records of the service that matter.
async fn there(
    backend: &Backend,
    options: &Options,
    cancel: &CancellationToken,
) -> Result<HashMap<Part, BTreeMap<String, Value>>, Error> {
    let mut there = HashMap::new();
    for part in layout::parts(options.include_deleted || options.keep_ids) {
        let records = match part.deleted {
            true => backend.ims.list_deleted(part.collection, cancel).await?,
            false => backend.ims.list(part.collection, cancel).await?,
        };
        let by_id = |record: Value| (layout::text(&record, "id").to_owned(), record);
        there.insert(part, records.into_iter().map(by_id).collect());
    }
    Ok(there)
}

/// Ids that are a certain record's from the start: its own, or the one an earlier run gave it.
fn claimed(
    documents: &[(Part, Document)],
    there: &HashMap<Part, BTreeMap<String, Value>>,
    journal: &Journal,
) -> Mutex<HashSet<String>> {
    let exported = documents.iter().flat_map(|(_, document)| &document.records);
    let own = exported.map(|record| layout::text(record, "id").to_owned());
    let own = own.filter(|id| there.values().any(|records| records.contains_key(id)));
    Mutex::new(own.chain(journal.ids()).collect())
}

/// Bytes of all artifacts of a directory; 0 if that cannot be known.
async fn total(supply: &Supply, documents: &[(Part, Document)]) -> u64 {
    if supply.is_stream() {
        return 0;
    }
    let mut total = 0;
    for path in documents.iter().flat_map(|(_, document)| &document.records).flat_map(paths) {
        if let Ok(file) = supply.open(&path).await {
            total += file.metadata().map_or(0, |data| data.len());
        }
    }
    total
}

fn paths(record: &Value) -> Vec<String> {
    let files = &record["linked_artifacts"];
    let of = |list: &str| files[list].as_array().into_iter().flatten().map(|file| &file["path"]);
    let paths = of("image_artifacts").chain(of("history")).chain([&files["recipe_archive"]]);
    paths.filter_map(|path| path.as_str().map(str::to_owned)).collect()
}

impl Outcome {
    fn add(&mut self, exported: &Exported, done: Result<Done, Error>) {
        let mut line = Line {
            document: exported.part.document(),
            old_id: exported.id.to_owned(),
            name: exported.name.to_owned(),
            action: None,
            id: None,
            problem: None,
        };
        match done {
            Ok(done) => {
                if !done.id.is_empty() && done.id != exported.id && !exported.part.deleted {
                    let map = self.maps.entry(exported.part.collection).or_default();
                    map.insert(exported.id.to_owned(), done.id.clone());
                }
                self.etags.extend(done.etags);
                if let Some(problem) = &done.problem {
                    tracing::error!(id = done.id, "{}: {problem}", line.document);
                }
                line.problem = done.problem;
                line.action = Some(done.action);
                line.id = Some(done.id).filter(|id| !id.is_empty());
                tracing::info!(old = line.old_id, id = line.id, action = ?done.action, "{}", line.document);
            }
            Err(error) => {
                let problem = chain(&error);
                tracing::error!(
                    old = line.old_id,
                    name = line.name,
                    "{}: {problem}",
                    line.document
                );
                line.problem = Some(problem);
            }
        }
        self.lines.push(line);
    }

    pub fn is_good(&self) -> bool {
        !self.stopped && self.lines.iter().all(|line| line.problem.is_none())
    }

    /// The map of old ids and etags to new ones, in the format of ims-import-export.py, with
    /// additional keys.
    pub fn map(&self) -> Value {
        let of = |collection| json!(self.maps.get(&collection).cloned().unwrap_or_default());
        json!({
            "etag_map": self.etags,
            "id_maps": { "images": of(Collection::Images), "recipes": of(Collection::Recipes) },
            "public_key_map": of(Collection::PublicKeys),
            "timestamp": layout::timestamp(),
        })
    }

    /// Writes that map to a new file in `dir`; its path.
    pub fn write_map(&self, dir: &Path) -> Result<PathBuf, Error> {
        let unique = uuid::Uuid::new_v4().simple();
        let path = dir.join(format!("ims-id-maps-post-import-{unique}.json"));
        fetch::write(&path, self.map().to_string().as_bytes()).map_err(Error::Map)?;
        Ok(path)
    }
}
