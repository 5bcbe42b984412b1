//! The templates of images/pod, filled in as IMS does it (Python's string.Template), are Kubernetes
//! objects that belong together.

use serde_json::Value;

/// The names that IMS fills in, and what a job may have for them.
const NAMES: [(&str, &str); 17] = [
    ("id", "5a7b1c9e-0000-4000-8000-00000000fa17"),
    ("namespace", "ims"),
    ("size_gb", "8Gi"),
    ("limit_gb", "24Gi"),
    ("download_url", "https://rgw.local/boot-images/a/rootfs?X-Amz-Expires=1&X-Amz-Signature=b"),
    ("download_md5sum", "d41d8cd98f00b204e9800998ecf8427e"),
    ("public_key", "\"ssh-ed25519 AAAA user\""),
    ("template_dictionary", "\"{}\""),
    ("enable_debug", "False"),
    ("ssh_jail", "True"),
    ("image_root_archive_name", "an image: of mine"),
    ("kernel_filename", "vmlinuz"),
    ("initrd_filename", "initrd"),
    ("kernel_parameters_filename", "kernel-parameters"),
    ("address_pool", "customer-management"),
    ("hostname", "job.ims.cmn.local"),
    ("s3_bucket", "boot-images"),
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

fn objects(file: &str) -> Vec<Value> {
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
    for file in ["customize.yaml", "customize-two-containers.yaml", "create.yaml"] {
        assert_consistent(file);
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
