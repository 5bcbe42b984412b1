//! Images of another architecture than this host's: their programs run under qemu, ours do not.

use anyhow::Context;

use crate::blocking::blocking;
use ims_client::Arch;
use linux::binfmt::{self, Machine};

/// Where an emulator may lie.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Whether this host runs programs of `arch` itself.
pub(super) fn is_native(arch: Arch) -> bool {
    machine(arch).name == std::env::consts::ARCH
}

fn machine(arch: Arch) -> Machine {
    match arch {
        Arch::X86_64 => Machine::X86_64,
        Arch::Aarch64 => Machine::AARCH64,
    }
}

/// Sees to it that programs of `arch` run in the image.
pub(super) async fn prepare(arch: Arch) -> anyhow::Result<()> {
    if is_native(arch) {
        return Ok(());
    }
    let machine = machine(arch);
    let emulator = blocking(move || Ok(binfmt::ensure(machine, PATH)?))
        .await
        .context("the image has another architecture than this host")?;
    tracing::info!(
        %arch,
        interpreter = emulator.interpreter,
        registered = emulator.registered,
        "emulating programs of the image"
    );
    Ok(())
}
