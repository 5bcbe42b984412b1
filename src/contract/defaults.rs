//! What holds where nothing was said: names and places by which IMS and this program know a job's parts, each
//! written once (contract sections 2 and 3).

use ims_client::Arch;

/// `IMAGE_ROOT_PARENT`.
pub const IMAGE_ROOT_PARENT: &str = "/mnt/image";

/// `KERNEL_FILENAME`, but for images of aarch64.
pub const KERNEL: &str = "vmlinuz";

/// `KERNEL_FILENAME` of images of aarch64, whose kernel is not compressed.
const KERNEL_OF_AARCH64: &str = "Image";

/// `INITRD_FILENAME`.
pub const INITRD: &str = "initrd";

/// `KERNEL_PARAMETERS_FILENAME`.
pub const KERNEL_PARAMETERS: &str = "kernel-parameters";

/// The kernel to look for. Clients send `vmlinuz` as their default whatever the architecture, but
/// an aarch64 kernel is called `Image`.
pub fn kernel_name(arch: Arch, given: Option<String>) -> String {
    match (arch, given) {
        (Arch::X86_64, None) => KERNEL.into(),
        (Arch::Aarch64, None) => KERNEL_OF_AARCH64.into(),
        (Arch::Aarch64, Some(name)) if name == KERNEL => KERNEL_OF_AARCH64.into(),
        (_, Some(name)) => name,
    }
}

/// A truth as IMS writes it in the environment of a job and of its sessions.
pub fn boolean_text(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}
