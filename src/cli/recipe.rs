//! `recipe`: recipes of a site from and to this machine.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::connect::Connection;
use super::exit::{self, Exit};
use super::output::Output;
use super::records;
use crate::transfer::recipe::{Request, import};
use crate::transfer::{Backend, get};
use ims_client::Arch;
use ims_client::Collection;

/// Import, download, check and list recipes
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
    Import(ImportArgs),
    Get(records::Get),
    #[command(flatten)]
    Records(records::Command),
}

/// Register a recipe archive
///
/// If a recipe with the same fields and the same archive is already registered, no other one is
/// created. If the import fails, everything it created is removed.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The recipe: a gzip-compressed tar archive
    archive: PathBuf,

    /// Name of the recipe record
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: String,

    /// Build tool: kiwi-ng or packer
    #[arg(long, value_name = "TYPE", default_value = "kiwi-ng")]
    recipe_type: String,

    /// Distribution to build on: sles12, sles15 or centos7
    #[arg(long, value_name = "NAME")]
    linux_distribution: String,

    /// Architecture of the images that it builds
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,

    /// Whether builds need kernel modules
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    require_dkms: bool,

    /// A value for the recipe's templates; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    template_dictionary: Vec<(String, String)>,

    /// Create another record even if the recipe is already registered
    #[arg(long)]
    force: bool,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let cancel = super::shutdown_token()?;
    let backend = match args.connection.backend()? {
        Ok(backend) => backend,
        Err(exit) => return Ok(exit),
    };
    let out = args.output;
    let result = match args.command {
        Command::Import(args) => run_import(args, &backend, &out, &cancel).await,
        Command::Get(args) => run_get(&args, &backend, &out, &cancel).await,
        Command::Records(command) => {
            command.run(Collection::Recipes, &backend, &out, &cancel).await
        }
    };
    out.ended(result, &cancel)
}

async fn run_get(
    args: &records::Get,
    backend: &Backend,
    out: &Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let files = get::recipe(backend, &args.id, &args.dir, cancel).await?;
    args.print(&files, out)
}

async fn run_import(
    args: ImportArgs,
    backend: &Backend,
    out: &Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let request = Request {
        name: args.name,
        archive: args.archive,
        recipe_type: args.recipe_type,
        linux_distribution: args.linux_distribution,
        arch: args.arch,
        require_dkms: args.require_dkms,
        template_dictionary: args.template_dictionary,
        force: args.force,
    };
    let imported = import(backend, &request, cancel).await?;
    for note in &imported.notes {
        tracing::warn!("{note}");
    }
    let id = imported.recipe["id"].as_str().unwrap_or_default();
    let name = request.name.escape_debug();
    out.print(
        || {
            json!({
                "result": "success",
                "existing": imported.existed,
                "ims_recipe_record": imported.recipe,
                "notes": imported.notes,
            })
        },
        || match imported.existed {
            true => format!(
                "{name} is already registered as recipe {id}; use --force to create \
                another one"
            ),
            false => format!("imported {name} as recipe {id}"),
        },
    )?;
    Ok(exit::SUCCESS)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}
