//! POST jobs: checks, stores and starts a job.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use uuid::Uuid;

use super::super::input::Input;
use super::super::problem::{Problem, Result};
use super::super::schema::{Field, Kind};
use super::super::{App, Shared, manifest};
use crate::contract::defaults;

use crate::standalone::launcher::{Download, Port};
use crate::standalone::records::{Connection, Image, Job, PublicKey, Recipe, SshContainer, Stamp};
use ims_client::{Arch, Status};

const NEW: &[Field] = &[
    Field::required("job_type", Kind::OneOf(&["create", "customize"])),
    Field::required("artifact_id", Kind::Id),
    Field::required("public_key_id", Kind::Id),
    Field::required("image_root_archive_name", Kind::Name),
    Field::optional("enable_debug", Kind::Flag),
    Field::optional("build_env_size", Kind::Whole(1)),
    Field::optional("job_mem_size", Kind::Whole(1)),
    Field::optional("kernel_file_name", Kind::Name),
    Field::optional("initrd_file_name", Kind::Name),
    Field::optional("kernel_parameters_file_name", Kind::Name),
    Field::optional("require_dkms", Kind::Flag),
    Field::nullable("ssh_containers", Kind::List(CONTAINER)),
];

const CONTAINER: &[Field] =
    &[Field::optional("name", Kind::Text), Field::optional("jail", Kind::Flag)];

#[derive(Deserialize)]
struct New {
    job_type: String,
    artifact_id: Uuid,
    public_key_id: Uuid,
    image_root_archive_name: String,
    #[serde(default)]
    enable_debug: bool,
    build_env_size: Option<i64>,
    job_mem_size: Option<i64>,
    kernel_file_name: Option<String>,
    initrd_file_name: Option<String>,
    kernel_parameters_file_name: Option<String>,
    require_dkms: Option<bool>,
    #[serde(default)]
    ssh_containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    name: Option<String>,
    #[serde(default)]
    jail: bool,
}

/// What a job works on.
struct Source {
    download: Download,
    arch: Arch,
    /// What the source itself asks for.
    require_dkms: bool,
}

pub async fn create(State(app): State<Shared>, input: Input) -> Result<(StatusCode, Json<Job>)> {
    let new: New = input.read(NEW)?;
    let key: PublicKey = app.records.get(new.public_key_id).await?.ok_or_else(|| {
        Problem::bad_request(format!("There is no public key {}.", new.public_key_id))
    })?;
    let source = if new.job_type == "create" {
        recipe(&app, &new).await?
    } else {
        image(&app, &new).await?
    };
    let port = app.launcher.port().map_err(|error| Problem::internal(&error))?;
    let job = record(new, &source, &port);
    // In a task of its own: a client that hangs up must not leave a record without a job.
    let started = tokio::spawn(async move {
        app.records.put(&job).await?;
        app.launcher.start(&job, &key.public_key, &source.download, port).await;
        Ok::<_, Problem>(job)
    });
    let job = started.await.map_err(|error| Problem::internal(&error))??;
    Ok((StatusCode::CREATED, Json(job)))
}

async fn image(app: &App, new: &New) -> Result<Source> {
    let id = new.artifact_id;
    if new.ssh_containers.len() > 1 {
        return Err(Problem::bad_request("A customize job has one SSH container at most."));
    }
    let image: Option<Image> = app.records.get(id).await?;
    let image = image.ok_or_else(|| Problem::bad_request(format!("There is no image {id}.")))?;
    let link = image.link.ok_or_else(|| {
        Problem::bad_request(format!("The image {id} has no link to a manifest yet."))
    })?;
    let artifacts = manifest::artifacts(&manifest::read(&app.objects, &link).await?)?;
    let mut objects: Vec<_> = artifacts.iter().map(|artifact| artifact.object.clone()).collect();
    objects.push(manifest::object(&link)?);
    let rootfs = manifest::rootfs(artifacts)?;
    if app.objects.head(&rootfs.object).await?.is_none() {
        return Err(Problem::bad_request(format!("There is no object {}.", rootfs.object)));
    }
    let url = app.objects.presign(&rootfs.object).await?;
    let (url, values) = (Some(url), BTreeMap::new());
    let download = Download { url, md5: rootfs.md5, values, objects };
    Ok(Source { download, arch: image.arch, require_dkms: true })
}

async fn recipe(app: &App, new: &New) -> Result<Source> {
    let id = new.artifact_id;
    if !new.ssh_containers.is_empty() {
        return Err(Problem::bad_request("A create job takes no SSH containers."));
    }
    let recipe: Option<Recipe> = app.records.get(id).await?;
    let recipe = recipe.ok_or_else(|| Problem::bad_request(format!("There is no recipe {id}.")))?;
    let link = recipe.link.ok_or_else(|| {
        Problem::bad_request(format!("The recipe {id} has no link to an archive yet."))
    })?;
    let object = manifest::object(&link)?;
    let head = app.objects.head(&object).await?;
    let head = head.ok_or_else(|| Problem::bad_request(format!("There is no object {object}.")))?;
    let md5 = head.metadata.get("md5sum").cloned().unwrap_or_default();
    let values = recipe.template_dictionary.into_iter().map(|pair| (pair.key, pair.value));
    let url = app.objects.presign(&object).await?;
    let (url, values) = (Some(url), values.collect());
    let download = Download { url, md5, values, objects: vec![object] };
    Ok(Source { download, arch: recipe.arch, require_dkms: recipe.require_dkms })
}

/// The record of a job about to start; names are those of the pods that IMS would make.
fn record(new: New, source: &Source, port: &Port) -> Job {
    let id = Uuid::new_v4();
    let containers = match new.job_type.as_str() {
        "create" if new.enable_debug => vec![container("debug".into(), false, port)],
        "create" => Vec::new(),
        _ => {
            let asked = new.ssh_containers.into_iter().next();
            let jail = asked.as_ref().is_some_and(|container| container.jail);
            let name = asked.and_then(|container| container.name);
            vec![container(name.unwrap_or_else(|| "customize".into()), jail, port)]
        }
    };
    Job {
        kubernetes_job: format!("cray-ims-{id}-{}", new.job_type),
        kubernetes_service: format!("cray-ims-{id}-service"),
        kubernetes_configmap: format!("cray-ims-{id}-configmap"),
        kubernetes_pvc: format!("cray-ims-{id}-job-claim"),
        kubernetes_namespace: "default".into(),
        kubernetes_secret: None,
        artifact_id: new.artifact_id,
        public_key_id: new.public_key_id,
        job_type: new.job_type,
        image_root_archive_name: new.image_root_archive_name,
        enable_debug: new.enable_debug,
        build_env_size: new.build_env_size.unwrap_or(60),
        kernel_file_name: new.kernel_file_name.unwrap_or_else(|| defaults::KERNEL.into()),
        initrd_file_name: new.initrd_file_name.unwrap_or_else(|| defaults::INITRD.into()),
        kernel_parameters_file_name: new
            .kernel_parameters_file_name
            .unwrap_or_else(|| defaults::KERNEL_PARAMETERS.into()),
        ssh_containers: containers,
        require_dkms: new.require_dkms.unwrap_or(source.require_dkms),
        job_mem_size: new.job_mem_size.unwrap_or(8),
        id,
        created: Stamp::now(),
        status: Status::Creating,
        resultant_image_id: None,
        arch: source.arch,
        remote_build_node: None,
    }
}

/// There is one network here: both names lead to the same address.
fn container(name: String, jail: bool, port: &Port) -> SshContainer {
    let connection = Connection { host: port.host.clone(), port: port.port };
    let networks = ["customer_access", "cluster.local"];
    let connection_info =
        BTreeMap::from_iter(networks.map(|network| (network.to_owned(), connection.clone())));
    SshContainer { name, jail, status: "pending".into(), connection_info }
}
