use std::collections::HashMap;

use super::*;
use net::Trust;

const JOB: &[(&str, &str)] = &[
    ("IMS_ACTION", "customize"),
    ("IMS_JOB_ID", "ad5163d2-398d-4e93-94f0-2f439f114fe7"),
    ("IMAGE_ROOT_ARCHIVE_NAME", "my_customized_image"),
    ("S3_ENDPOINT", "http://rgw:8080"),
    ("S3_ACCESS_KEY", "key"),
    ("S3_SECRET_KEY", "hush"),
];

fn read(changes: &[(&str, &str)]) -> Result<JobContract, Faults> {
    let vars: HashMap<_, _> = JOB.iter().chain(changes).copied().collect();
    JobContract::from_vars(|name| vars.get(name).map(|value| value.to_string()))
}

#[test]
fn a_minimal_environment_gets_the_documented_defaults() {
    let contract = read(&[]).unwrap();
    assert_eq!(contract.action, Action::Customize);
    assert_eq!(contract.ims.url.as_str(), "https://api-gw-service-nmn.local/apis/ims");
    assert_eq!(contract.image_root_parent.to_str(), Some("/mnt/image"));
    assert_eq!(contract.recipe.root.to_str(), Some("/mnt/image/recipe"));
    assert_eq!(contract.recipe.repository_timeout.as_secs(), 500);
    assert_eq!(contract.image.kernel, "vmlinuz");
    assert_eq!(contract.image.initrd, "initrd");
    assert_eq!(contract.s3.bucket, "boot-images");
    assert_eq!(contract.s3.trust, Trust::System);
    assert!(!contract.session.jail && !contract.session.dkms && !contract.debug);
}

#[test]
fn every_fault_is_reported_at_once() {
    let faults = read(&[
        ("IMS_ACTION", "destroy"),
        ("IMS_JOB_ID", "nope"),
        ("SSH_JAIL", "maybe"),
        ("BUILD_ARCH", "riscv"),
        ("S3_ENDPOINT", ""),
        ("DOWNLOAD_MD5SUM", "xyz"),
        ("IMS_URL", "gopher://x"),
        ("RECIPE_ROOT_PARENT", "recipe"),
        ("TIMEOUT", "soon"),
    ])
    .unwrap_err()
    .to_string();
    for name in [
        "IMS_ACTION",
        "IMS_JOB_ID",
        "SSH_JAIL",
        "BUILD_ARCH",
        "S3_ENDPOINT",
        "DOWNLOAD_MD5SUM",
        "IMS_URL",
        "RECIPE_ROOT_PARENT",
        "TIMEOUT",
    ] {
        assert!(faults.contains(name), "{name} is missing in: {faults}");
    }
}

#[test]
fn an_empty_value_counts_as_unset() {
    let contract =
        read(&[("KERNEL_FILENAME", ""), ("SSH_JAIL", ""), ("DOWNLOAD_URL", "")]).unwrap();
    assert_eq!(contract.image.kernel, "vmlinuz");
    assert!(contract.download.url.is_none());
}

#[test]
fn vmlinuz_on_aarch64_means_image() {
    for given in ["", "vmlinuz"] {
        let contract = read(&[("BUILD_ARCH", "aarch64"), ("KERNEL_FILENAME", given)]).unwrap();
        assert_eq!(contract.image.kernel, "Image");
    }
    let contract = read(&[("BUILD_ARCH", "aarch64"), ("KERNEL_FILENAME", "Image-6.4")]).unwrap();
    assert_eq!(contract.image.kernel, "Image-6.4");
}

#[test]
fn older_names_of_the_store_variables_are_read() {
    let contract =
        read(&[("S3_ENDPOINT", ""), ("S3_HOST", "https://rgw.local"), ("S3_SSL_VERIFY", "False")])
            .unwrap();
    assert_eq!(contract.s3.endpoint.as_str(), "https://rgw.local/");
    assert_eq!(contract.s3.trust, Trust::Insecure);
    let contract = read(&[("S3_SSL_VALIDATE", "True"), ("S3_SSL_VERIFY", "False")]).unwrap();
    assert_eq!(contract.s3.trust, Trust::System, "S3_SSL_VALIDATE comes first");
}

#[test]
fn the_gateway_host_makes_the_default_url() {
    let contract = read(&[("API_GATEWAY_HOSTNAME", "api-gw.local")]).unwrap();
    assert_eq!(contract.ims.url.as_str(), "https://api-gw.local/apis/ims");
}

#[test]
fn no_secret_is_in_debug_output_or_faults() {
    let contract = read(&[("OAUTH_CLIENT_SECRET", "hush-too")]).unwrap();
    assert!(!format!("{contract:?}").contains("hush"));
    let faults = read(&[("IMS_ACTION", "x")]).unwrap_err();
    assert!(!faults.to_string().contains("hush"));
}

#[test]
fn what_does_not_change_the_job_is_no_fault() {
    let contract = read(&[("LOG_LEVEL", "loud"), ("KERNEL_FILENAME", "/vmlinuz")]).unwrap();
    assert_eq!(contract.log_level, Default::default());
    assert_eq!(contract.image.kernel, "vmlinuz");
    let contract = read(&[("BUILD_ARCH", "aarch64"), ("KERNEL_FILENAME", "/vmlinuz")]).unwrap();
    assert_eq!(contract.image.kernel, "Image");
}

#[test]
fn the_record_is_known_where_job_and_ims_are() {
    let record = |vars: &'static [(&str, &str)]| {
        record(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    };
    const ID: (&str, &str) = ("IMS_JOB_ID", "ad5163d2-398d-4e93-94f0-2f439f114fe7");
    let (id, ims) = record(&[ID, ("IMS_URL", "http://ims"), ("IMS_ACTION", "paint")]).unwrap();
    assert_eq!((id.to_string().as_str(), ims.url.as_str()), (ID.1, "http://ims/"));
    assert!(record(&[ID, ("IMS_URL", "ftp://ims")]).is_none());
    assert!(record(&[("IMS_URL", "http://ims")]).is_none());
}
