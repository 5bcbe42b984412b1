//! The pods: those of images/pod, and those that IMS's own templates make.

use serde_json::{Value, json};

use crate::kube::{SECRETS, Settings};
use crate::templates;

const AGENT: &str = concat!("localhost/ims-job-agent:", env!("CARGO_PKG_VERSION"));
const BUILDER: &str = concat!("localhost/ims-job-agent-builder:", env!("CARGO_PKG_VERSION"));

pub fn customize(settings: &Settings) -> Value {
    of_template(settings, "customize.yaml")
}

pub fn customize_two_containers(settings: &Settings) -> Value {
    of_template(settings, "customize-two-containers.yaml")
}

pub fn create(settings: &Settings) -> Value {
    of_template(settings, "create.yaml")
}

/// The pod that a template of images/pod makes, but for what podman has otherwise than a cluster: the
/// names of volumes, no limits and probes, and the ports are those of this machine.
fn of_template(settings: &Settings, file: &str) -> Value {
    let job = templates::objects(file).into_iter().find(|object| object["kind"] == "Job").unwrap();
    let mut spec = job["spec"]["template"]["spec"].clone();
    spec["hostNetwork"] = true.into();
    spec["volumes"] = volumes(settings);
    for container in spec["containers"].as_array_mut().unwrap() {
        let text = container.to_string();
        let text = text.replace("registry.local/", "localhost/");
        let text =
            text.replace("0.0.0.0:9180", "127.0.0.1:0").replace("0.0.0.0:9181", "127.0.0.1:0");
        *container = serde_json::from_str(&text).unwrap();
        for cluster in ["resources", "startupProbe", "livenessProbe", "readinessProbe", "ports"] {
            container.as_object_mut().unwrap().remove(cluster);
        }
        for mount in container["volumeMounts"].as_array_mut().unwrap() {
            // The kubelet makes the places of volumes in volumes.
            mount.as_object_mut().unwrap().remove("readOnly");
        }
        let env = container["env"].as_array_mut().unwrap();
        for variable in &mut *env {
            let name = variable["name"].as_str().unwrap().to_owned();
            *variable = match settings.vars.get(name.as_str()) {
                _ if name == "DOWNLOAD_URL" => json!({"name": name, "value": settings.url}),
                _ if SECRETS.contains(&name.as_str()) => secret(settings, &name),
                Some(value) => json!({"name": name, "value": value}),
                None if variable["valueFrom"].is_object() => json!({"name": name, "value": ""}),
                None => variable.clone(),
            };
        }
        // Where this machine's IMS and SSH server are.
        for name in ["IMS_URL", "IMS_PYTHON_HELPER_TIMEOUT", "SSHD_OPTIONS"] {
            env.push(json!({"name": name, "value": settings.vars[name]}));
        }
    }
    spec
}

/// Two containers after one that prepares, as IMS's own template of customize jobs has it.
pub fn customize_three_containers(settings: &Settings) -> Value {
    let fetch = format!("/scripts/prep-env.sh /mnt/image \"{}\"", settings.url);
    let mut prepare = container(settings, "prepare", AGENT, &fetch);
    prepare["securityContext"] = json!({"privileged": true});
    three_containers(settings, json!([prepare]))
}

/// Two containers after four that build, as IMS's own template of create jobs has it.
pub fn create_three_containers(settings: &Settings) -> Value {
    let fetch = format!("/scripts/fetch-recipe.sh /mnt/recipe \"{}\"", settings.url);
    let mut build = container(settings, "build-image", BUILDER, "");
    build["securityContext"] = json!({"privileged": true});
    let steps = json!([
        container(settings, "fetch-recipe", AGENT, &fetch),
        container(settings, "wait-for-repos", AGENT, "/scripts/wait_for_kiwi_repos.py"),
        container(settings, "build-ca-rpm", AGENT, "/scripts/build_ca_rpm.py"),
        build,
    ]);
    three_containers(settings, steps)
}

fn three_containers(settings: &Settings, init: Value) -> Value {
    let sidecar = "/scripts/buildenv-sidecar.sh /mnt/image";
    let mut sidecar = container(settings, "buildenv-sidecar", AGENT, sidecar);
    let env = sidecar["env"].as_array_mut().unwrap();
    env.extend(SECRETS.map(|name| secret(settings, name)));
    let sshd = container(settings, "sshd", AGENT, "");
    json!({
        "restartPolicy": "Never",
        "hostNetwork": true,
        "initContainers": init,
        "containers": [sidecar, sshd],
        "volumes": volumes(settings),
    })
}

/// Without a command it is the image that says what runs.
fn container(settings: &Settings, name: &str, image: &str, command: &str) -> Value {
    let env = settings.vars.iter().map(|(name, value)| json!({"name": name, "value": value}));
    let mut container = json!({
        "name": name,
        "image": image,
        "env": env.collect::<Vec<_>>(),
        "volumeMounts": [
            {"name": "image-vol", "mountPath": "/mnt/image"},
            {"name": "recipe-vol", "mountPath": "/mnt/recipe"},
            {"name": "ca-rpm-vol", "mountPath": "/mnt/ca-rpm"},
            {"name": "ssh-pubkey", "mountPath": "/etc/cray"},
            {"name": "ca-pubkey", "mountPath": "/etc/cray/ca"},
            {"name": "admin-client-auth", "mountPath": "/etc/admin-client-auth"},
        ],
    });
    if !command.is_empty() {
        container["command"] = json!(["sh", "-ce", command]);
    }
    container
}

fn secret(settings: &Settings, name: &str) -> Value {
    let secret = json!({"name": format!("{}-s3", settings.name), "key": name});
    json!({"name": name, "valueFrom": {"secretKeyRef": secret}})
}

fn volumes(settings: &Settings) -> Value {
    let name = &settings.name;
    let claim = |volume: &str, of: &str| json!({"name": volume, "persistentVolumeClaim": {"claimName": format!("{name}-{of}")}});
    let config = |volume: &str, of: &str, items: Value| {
        let map = json!({"name": format!("{name}-{of}"), "items": items});
        json!({"name": volume, "configMap": map})
    };
    let user = json!([
        {"key": "public_key", "path": "authorized_keys"},
        {"key": "template_dictionary", "path": "template_dictionary"},
    ]);
    let oauth = ["client-id", "client-secret", "endpoint"];
    let oauth = oauth.map(|name| json!({"key": name, "path": name}));
    let ca = "certificate_authority.crt";
    json!([
        claim("image-vol", "image"),
        claim("recipe-vol", "recipe"),
        claim("ca-rpm-vol", "ca-rpm"),
        // Empty: the variables say it.
        claim("s3-credentials", "s3-credentials"),
        config("ssh-pubkey", "configmap", user),
        config("ca-pubkey", "ca", json!([{"key": ca, "path": ca}])),
        config("admin-client-auth", "oauth", json!(oauth)),
    ])
}
