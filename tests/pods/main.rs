//! Jobs in containers: the images are built by images/build and run by `podman play kube`, which here
//! stands for a kubelet, with ConfigMaps, a Secret, volumes and init containers.

mod create;
mod customize;
mod kube;
mod specs;
#[path = "../support/mod.rs"]
mod support;
mod templates;
