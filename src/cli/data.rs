//! `data`: all images, recipes and public keys of a site, out and in again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::connect::Connection;
use super::exit::{self, Exit};
use super::output::{self, Output};
use crate::transfer::Backend;
use crate::transfer::data::export::{self, Summary, export};
use crate::transfer::data::import::{self, JOURNAL, Options, Outcome, Supply, import};
use crate::transfer::data::layout::DEFAULT_DIRECTORY;
use crate::transfer::data::pack::pack;
use crate::transfer::data::plan::{Choice, Plan, plan};
use crate::transfer::fetch::beside;

/// Export and import all records and artifacts of a site
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Export(ExportArgs),
    Import(ImportArgs),
}

/// Export records, and with --include-linked-artifacts their artifacts, to a directory or an
/// archive
///
/// The files have the format of ims-import-export.py, which can read them. A second run downloads
/// only what is missing or damaged. `sha256sum -c SHA256SUMS` checks the files later.
#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// Directory to write to; created if missing
    #[arg(default_value = DEFAULT_DIRECTORY, conflicts_with = "to")]
    dir: PathBuf,

    /// Also export artifacts: manifests, root file systems, kernels, recipe archives and so on
    #[arg(long)]
    include_linked_artifacts: bool,

    /// Also export the records in the trash
    #[arg(long)]
    include_deleted: bool,

    /// Only print what would be exported, with sizes
    #[arg(long)]
    dry_run: bool,

    /// Write one tar archive, compressed with zstd, instead of a directory; - is stdout
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,

    /// Number of objects to download at the same time
    #[arg(long, value_name = "N", default_value_t = 3)]
    jobs: usize,

    /// Directory for artifacts on their way into the archive [default: TMPDIR, or /tmp]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// Import an export: create missing records and upload missing artifacts
///
/// Reads exports of this program and of ims-import-export.py. Missing records get new ids, which
/// are listed in a file ims-id-maps-post-import-*.json in the current directory. Existing records
/// are not changed. After an interrupted import, run the same command again to resume it.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// Directory of the export
    #[arg(default_value = DEFAULT_DIRECTORY, conflicts_with = "from")]
    dir: PathBuf,

    /// Read one tar archive (plain, gzip, xz or zstd) instead of a directory; - is stdin
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// Also import the records that were in the trash, into the trash
    #[arg(long)]
    include_deleted: bool,

    /// Replace existing objects whose content differs from the export
    #[arg(long)]
    overwrite: bool,

    /// Import only records that can keep their old id: those that can be restored from the trash
    /// of IMS
    #[arg(long)]
    keep_ids: bool,

    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,

    /// Number of records to import at the same time
    #[arg(long, value_name = "N", default_value_t = 3)]
    jobs: usize,

    /// File that records what was begun, so that the next run can resume [default: in the export;
    /// with --from in the current directory]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,

    /// Directory for the map of ids and etags
    #[arg(long, value_name = "DIR", default_value = ".")]
    map_dir: PathBuf,

    /// Directory for files of the archive until they are uploaded [default: TMPDIR, or /tmp]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let cancel = super::shutdown_token()?;
    let backend = match args.connection.backend()? {
        Ok(backend) => backend,
        Err(exit) => return Ok(exit),
    };
    // With `--to -` stdout is the archive.
    let to_stdout =
        matches!(&args.command, Command::Export(it) if it.to.as_deref() == Some(Path::new("-")));
    let result = match args.command {
        Command::Export(export) => run_export(export, &backend, &args.output, &cancel).await,
        Command::Import(import) => run_import(import, &backend, &args.output, &cancel).await,
    };
    match to_stdout {
        true => super::terminated_or(result, &cancel),
        false => args.output.ended(result, &cancel),
    }
}

async fn run_export(
    args: ExportArgs,
    backend: &Backend,
    out: &Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let choice =
        Choice { linked_artifacts: args.include_linked_artifacts, deleted: args.include_deleted };
    let plan = plan(backend, choice, cancel).await?;
    for problem in &plan.problems {
        tracing::error!("not exported: {problem}");
    }
    let summary = match (&args.to, args.dry_run) {
        (_, true) => Summary::of(&plan),
        (None, false) => export(backend, &plan, &args.dir, args.jobs, cancel).await?,
        (Some(to), false) => {
            let scratch = args.work_dir.unwrap_or_else(std::env::temp_dir);
            to_stream(backend, &plan, to, &scratch, cancel).await?
        }
    };
    // With `--to -` stdout is the archive.
    if args.dry_run || args.to.as_deref() != Some(Path::new("-")) {
        print_export(&plan, &summary, args.dry_run, out)?;
    }
    Ok(if summary.problems.is_empty() { exit::SUCCESS } else { exit::FAILURE })
}

async fn to_stream(
    backend: &Backend,
    plan: &Plan,
    to: &Path,
    scratch: &Path,
    cancel: &CancellationToken,
) -> anyhow::Result<Summary> {
    if to == Path::new("-") {
        return Ok(pack(backend, plan, Box::new(io::stdout()), scratch, cancel).await?);
    }
    let part = beside(to, ".part");
    let shown = || format!("cannot write {}", to.display());
    let file: Box<dyn Write + Send> = Box::new(File::create(&part).with_context(shown)?);
    match pack(backend, plan, file, scratch, cancel).await {
        Ok(summary) => {
            crate::transfer::fetch::keep(&part, to)?;
            Ok(summary)
        }
        Err(error) => {
            let _ = std::fs::remove_file(&part);
            Err(error.into())
        }
    }
}

fn print_export(
    plan: &Plan,
    summary: &export::Summary,
    dry_run: bool,
    out: &Output,
) -> anyhow::Result<()> {
    out.print(
        || {
            let mut json = json!(summary);
            json["dry_run"] = dry_run.into();
            if dry_run {
                let file = |it: &crate::transfer::data::plan::Planned| {
                    json!({ "path": it.path, "size": it.size })
                };
                json["artifacts"] = plan.files.iter().map(file).collect();
            }
            json
        },
        || {
            let mut rows = Vec::new();
            if dry_run {
                let size = |it: &crate::transfer::data::plan::Planned| {
                    vec![it.path.clone(), format!("{} bytes", it.size)]
                };
                rows.extend(plan.files.iter().map(size));
            }
            let records = summary.records.iter();
            rows.extend(records.map(|(name, count)| vec![(*name).to_owned(), format!("{count} records")]));
            let kept = summary.files_kept;
            let files = format!("{} files ({kept} already there), {} bytes", summary.files, summary.bytes);
            rows.push(vec!["artifacts".to_owned(), files]);
            output::table(&rows)
        },
    )
}

async fn run_import(
    args: ImportArgs,
    backend: &Backend,
    out: &Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let scratch = args.work_dir.unwrap_or_else(std::env::temp_dir);
    let (supply, beside) = match &args.from {
        None => (Supply::directory(&args.dir)?, args.dir.as_path()),
        Some(from) => (Supply::stream(open(from)?, &scratch)?, Path::new(".")),
    };
    let options = Options {
        include_deleted: args.include_deleted,
        overwrite: args.overwrite,
        keep_ids: args.keep_ids,
        dry_run: args.dry_run,
        jobs: args.jobs,
        journal: args.journal.unwrap_or_else(|| beside.join(JOURNAL)),
        site_name: backend.ims.base().to_string(),
    };
    let outcome = import(backend, &supply, &options, cancel).await?;
    let map = match args.dry_run {
        true => None,
        false => Some(outcome.write_map(&args.map_dir)?),
    };
    print_import(&outcome, map.as_deref(), args.dry_run, out)?;
    Ok(match outcome.is_good() {
        true => exit::SUCCESS,
        false if cancel.is_cancelled() => exit::TERMINATED,
        false => exit::FAILURE,
    })
}

fn open(from: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if from == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    Ok(Box::new(file))
}

fn print_import(
    outcome: &Outcome,
    map: Option<&Path>,
    dry_run: bool,
    out: &Output,
) -> anyhow::Result<()> {
    let json = || {
        let mut json = outcome.map();
        json["dry_run"] = dry_run.into();
        json["records"] = json!(outcome.lines);
        json["map_file"] = json!(map);
        json
    };
    let human = || {
        let head = ["OLD ID", "ID", "", "DOCUMENT", "NAME"].map(str::to_owned).to_vec();
        let rows: Vec<_> = [head].into_iter().chain(outcome.lines.iter().map(row)).collect();
        let map = map.map(|map| format!("\nids and etags: {}", map.display()));
        output::table(&rows) + &map.unwrap_or_default()
    };
    out.print(json, human)
}

/// What was done about a record, as a row of a table.
fn row(line: &import::Line) -> Vec<String> {
    let done = match (line.action, &line.problem) {
        (Some(action), None) => format!("{action:?}").to_lowercase(),
        _ => "FAILED".to_owned(),
    };
    vec![
        line.old_id.clone(),
        line.id.clone().unwrap_or_else(|| "-".to_owned()),
        done,
        line.document.to_owned(),
        line.name.escape_debug().to_string(),
    ]
}
