//! The templates of images/pod, filled in as IMS does it (Python's string.Template), are Kubernetes
//! objects that belong together.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const FILES: [&str; 3] = ["customize.yaml", "customize-two-containers.yaml", "create.yaml"];

/// The names that IMS fills in, and what a job may have for them.
const NAMES: [(&str, &str); 19] = [
    ("id", "5a7b1c9e-0000-4000-8000-00000000fa17"),
    ("namespace", "ims"),
    ("size_gb", "8Gi"),
    ("limit_gb", "24Gi"),
    ("download_url", "https://rgw.local/boot-images/a/rootfs?X-Amz-Expires=1&X-Amz-Signature=b"),
    ("download_md5sum", "d41d8cd98f00b204e9800998ecf8427e"),
    ("public_key", "ssh-ed25519 AAAA user"),
    ("template_dictionary", r#"{"repository": "http://x"}"#),
    ("enable_debug", "False"),
    ("ssh_jail", "True"),
    ("image_root_archive_name", "an image: of mine"),
    ("kernel_filename", "vmlinuz"),
    ("initrd_filename", "initrd"),
    ("kernel_parameters_filename", "kernel-parameters"),
    ("address_pool", "customer-management"),
    ("hostname", "job.ims.cmn.local"),
    ("s3_bucket", "boot-images"),
    ("job_arch", "x86_64"),
    ("job_enable_dkms", "False"),
];

fn filled(template: &str) -> Value {
    // Longer names first: one may begin as another does.
    let mut names = NAMES;
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let fill =
        |text: String, (name, value): &(&str, &str)| text.replace(&format!("${name}"), value);
    let text = names.iter().fold(template.to_owned(), fill);
    assert!(!text.contains('$'), "{text}");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What IMS makes of a file of images/pod for a job.
pub fn objects(file: &str) -> Vec<Value> {
    let path = format!("{}/images/pod/{file}", env!("CARGO_MANIFEST_DIR"));
    let map: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let templates = map["data"].as_object().unwrap().values();
    templates.map(|template| filled(template.as_str().unwrap())).collect()
}

fn list<'a>(value: &'a Value, at: &str) -> &'a [Value] {
    value.pointer(at).and_then(Value::as_array).unwrap_or_else(|| panic!("no {at} in {value}"))
}

fn assert_consistent(file: &str) {
    let objects = objects(file);
    let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let (job, service) = (of_kind("Job"), of_kind("Service"));
    let spec = &job["spec"]["template"]["spec"];
    assert_eq!((&job["apiVersion"], &spec["restartPolicy"]), (&"batch/v1".into(), &"Never".into()));
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&service["spec"]["selector"], labels);
    let volumes: Vec<_> = list(spec, "/volumes").iter().map(|volume| &volume["name"]).collect();
    let volume_of = |name: &str| {
        list(spec, "/volumes").iter().find(|volume| volume["name"] == name).unwrap().clone()
    };
    assert_eq!(
        volume_of("image-vol")["persistentVolumeClaim"]["claimName"],
        of_kind("PersistentVolumeClaim")["metadata"]["name"]
    );
    assert_eq!(
        volume_of("ssh-pubkey")["configMap"]["name"],
        of_kind("ConfigMap")["metadata"]["name"]
    );
    for container in list(spec, "/containers") {
        for mount in list(container, "/volumeMounts") {
            assert!(volumes.contains(&&mount["name"]), "{mount}");
        }
        for variable in list(container, "/env") {
            let text = variable["value"].is_string() || variable["valueFrom"].is_object();
            assert!(text, "Kubernetes takes strings alone: {variable}");
        }
    }
}

#[test]
fn templates_are_filled_in_and_fit_together() {
    FILES.into_iter().for_each(assert_consistent);
}

/// Kubernetes leaves out what it does not know, without a word: what comes back is what it knows.
fn is_known<T: DeserializeOwned + Serialize>(object: &Value) {
    let read: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("Kubernetes would refuse this: {error}\n{object}"));
    assert_within(object, &serde_json::to_value(read).unwrap(), "");
}

fn assert_within(given: &Value, known: &Value, at: &str) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                let at = format!("{at}/{name}");
                let known = known.get(name).unwrap_or_else(|| panic!("Kubernetes has no {at}"));
                assert_within(value, known, &at);
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            assert_eq!(given.len(), known.len(), "{at}");
            for (number, (given, known)) in given.iter().zip(known).enumerate() {
                assert_within(given, known, &format!("{at}/{number}"));
            }
        }
        _ => assert_eq!(given, known, "{at}"),
    }
}

fn assert_known(object: &Value) {
    match (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
        ("v1", "ConfigMap") => is_known::<ConfigMap>(object),
        ("v1", "Service") => is_known::<Service>(object),
        ("v1", "PersistentVolumeClaim") => is_known::<PersistentVolumeClaim>(object),
        ("batch/v1", "Job") => is_known::<Job>(object),
        other => panic!("IMS makes no {other:?}"),
    }
}

#[test]
fn kubernetes_knows_every_field() {
    for file in FILES {
        let path = format!("{}/images/pod/{file}", env!("CARGO_MANIFEST_DIR"));
        let map = std::fs::read_to_string(path).unwrap();
        assert_known(&serde_saphyr::from_str(&map).unwrap());
        let objects = objects(file);
        assert_eq!(objects.len(), 4, "{file}");
        objects.iter().for_each(assert_known);
    }
}

#[test]
#[should_panic(expected = "Kubernetes has no /spec/template/spec/containers/0/resource")]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let mut objects = objects("customize.yaml");
    let job = objects.iter_mut().find(|object| object["kind"] == "Job").unwrap();
    job["spec"]["template"]["spec"]["containers"][0]["resource"] = serde_json::json!({});
    assert_known(job);
}

#[test]
fn the_program_understands_what_it_is_given() {
    for file in FILES {
        let objects = objects(file);
        let job = objects.iter().find(|object| object["kind"] == "Job").unwrap();
        for container in list(job, "/spec/template/spec/containers") {
            let variables: Vec<_> =
                list(container, "/env").iter().map(|var| &var["name"]).collect();
            for name in variables {
                let known = ims_job_agent::contract::vars::ALL.iter().any(|var| name == var.name);
                assert!(known, "{file}: the program does not read {name}");
            }
            let image = container["image"].as_str().unwrap();
            assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{file}: {image}");
            assert_eq!(container["command"][0], "/usr/bin/ims-job-agent");
        }
    }
}

#[test]
fn sessions_in_their_own_container_see_no_secret() {
    let objects = objects("customize-two-containers.yaml");
    let job = objects.iter().find(|object| object["kind"] == "Job").unwrap();
    let containers = list(job, "/spec/template/spec/containers");
    let sessions = containers.iter().find(|container| container["name"] == "sessions").unwrap();
    let text = sessions.to_string();
    for secret in ["secretKeyRef", "admin-client-auth", "X-Amz-Signature", "privileged"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
