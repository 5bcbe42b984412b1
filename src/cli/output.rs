//! What commands print on stdout: text for people, or JSON.

use std::io;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::exit::{self, Exit};
use crate::job::Outcome;
use crate::publish::pretty;
use crate::telemetry::chain;
use crate::transfer::Backend;
use crate::transfer::get::File;
use crate::transfer::verify::Report;
use ims_client::Collection;
use linux::stdio;

/// Form of a command's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Human,
    Json,
}

/// The flag that commands share.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// Format of the result on stdout
    #[arg(long, global = true, value_name = "FORM", default_value = "human")]
    pub format: Format,
}

impl Output {
    /// Prints the one or the other.
    pub fn print(
        &self,
        json: impl FnOnce() -> Value,
        human: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => pretty(&json()),
            Format::Human => human(),
        };
        if text.is_empty() {
            return Ok(());
        }
        line(&text)
    }

    /// How a command ended; with `--format json` its failure is printed as JSON, as a job's is.
    pub fn ended(
        &self,
        result: anyhow::Result<Exit>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Exit> {
        if let Err(error) = &result {
            let failure = || json!({ "result": "failure", "error": chain(error.as_ref()) });
            self.print(failure, String::new)?;
        }
        super::terminated_or(result, cancel)
    }
}

/// Longest wait until stdout has taken the result of a job.
const RESULT: Duration = Duration::from_secs(10);

const UNWRITTEN: &str = "cannot write the result to stdout";

fn line(text: &str) -> anyhow::Result<()> {
    self::text(&format!("{text}\n")).map(|_| ())
}

/// Prints text as it is; false if the reader has closed the pipe.
pub fn text(text: &str) -> anyhow::Result<bool> {
    match stdio::write_all(io::stdout(), text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.source.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.source).context(UNWRITTEN),
    }
}

/// Prints how a job ended. A stdout that is full, closed or not read does not change the exit code.
pub fn outcome(outcome: &Outcome) -> Exit {
    let text = format!("{}\n", outcome.result).into_bytes();
    match stdio::write_within(RESULT, io::stdout(), text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tracing::warn!(%error, "{UNWRITTEN}");
        }
        _ => {}
    }
    Exit::of_job(outcome)
}

/// A field of a record as a cell of a table.
pub fn cell(record: &Value, field: &str) -> String {
    match &record[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    }
}

/// Columns as wide as their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What was verified, one line per artifact.
pub fn report(report: &Report) -> String {
    let verdict = if report.is_good() { "good" } else { "NOT good" };
    let mut lines = vec![format!("{} {}: {verdict}", report.id, report.name.escape_debug())];
    lines.extend(report.problems.iter().map(|problem| format!("  {problem}")));
    for artifact in &report.artifacts {
        let size = artifact.size.map_or("-".to_owned(), |size| size.to_string());
        let verdict = match artifact.problems.as_slice() {
            [] => "good".to_owned(),
            problems => problems.join("; "),
        };
        lines.push(format!("  {} ({size} bytes): {verdict}", artifact.path));
    }
    lines.join("\n")
}

/// What was fetched, one line per file.
pub fn files(files: &[File]) -> String {
    let line = |file: &File| {
        let how = if file.existed { "already there" } else { "fetched" };
        vec![file.path.display().to_string(), format!("{} bytes", file.size), how.to_owned()]
    };
    table(&files.iter().map(line).collect::<Vec<_>>())
}

/// Prints reports; the exit code says whether all is good.
pub fn reports(reports: &[Report], out: &Output) -> anyhow::Result<Exit> {
    let is_good = reports.iter().all(Report::is_good);
    out.print(
        || json!({ "good": is_good, "reports": reports }),
        || reports.iter().map(report).collect::<Vec<_>>().join("\n"),
    )?;
    Ok(if is_good { exit::SUCCESS } else { exit::FAILURE })
}

/// Prints the records of a collection, or those in its trash.
pub async fn list(
    backend: &Backend,
    collection: Collection,
    deleted: bool,
    out: &Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let mut records = match deleted {
        true => backend.ims.list_deleted(collection, cancel).await?,
        false => backend.ims.list(collection, cancel).await?,
    };
    let key = |record: &Value| (cell(record, "created"), cell(record, "id"));
    records.sort_by_key(key);
    let fields: &[&str] = match collection {
        Collection::Recipes => {
            &["id", "created", "arch", "recipe_type", "linux_distribution", "name"]
        }
        _ => &["id", "created", "arch", "name"],
    };
    let row = |record: &Value| {
        let complete = if record["link"].is_null() { "incomplete" } else { "" };
        let cells = fields.iter().map(|field| cell(record, field));
        cells.chain([complete.to_owned()]).collect()
    };
    out.print(
        || Value::from(records.clone()),
        || {
            let head = fields.iter().map(|field| field.to_uppercase()).collect();
            let rows: Vec<_> = [head].into_iter().chain(records.iter().map(row)).collect();
            table(&rows)
        },
    )?;
    Ok(exit::SUCCESS)
}
