//! Exports and imports that are killed wherever they are, and run again: nothing is lost, nothing is made
//! twice, nothing is left half-made.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::recovery::{export, furnished, import_data};
use crate::run::{all_good, images, path};
use crate::support::process::Process;
use crate::support::stand::{Objects, Stand};
use crate::support::tree::run;

/// Times after which a run is killed, in milliseconds: spread over what it takes.
const MOMENTS: [u64; 8] = [20, 60, 110, 170, 240, 330, 450, 600];

/// Starts the command and kills it after each of the moments, unless it ends before.
async fn killed(stand: &Stand, arguments: &[&str], signal: Signal) {
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        let command = stand.command(arguments);
        let mut process = Process::start(command, stand.dir.path(), &format!("killed-{number}"));
        tokio::time::sleep(Duration::from_millis(moment)).await;
        if process.is_running() {
            process.signal(signal);
        }
        process.wait(crate::support::SOON).await;
    }
}

async fn an_export_is_gone_on_with(objects: Objects) {
    let stand = Stand::start(objects).await;
    furnished(&stand).await;
    let arguments = ["data", "export", "export", "--include-linked-artifacts"];
    killed(&stand, &arguments, Signal::SIGKILL).await;
    let dir = export(&stand).await;
    run(Command::new("sha256sum")
        .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
        .current_dir(&dir));
    let parts = run(Command::new("find").arg(&dir).args(["-name", "*.part"]));
    assert_eq!(parts, b"");
}

async fn an_import_is_gone_on_with(objects: Objects) {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let (from, to) = (Stand::start(objects).await, Stand::start(objects).await);
        furnished(&from).await;
        let dir = export(&from).await;
        killed(&to, &["data", "import", path(&dir)], signal).await;
        import_data(&to, &dir, &[]).await;
        assert_eq!(images(&to).await.len(), 3, "{signal}: {:?}", to.ims.get("v3/images").await);
        assert_eq!(to.ims.get("v3/recipes").await.as_array().unwrap().len(), 1);
        assert_eq!(to.ims.get("v3/public-keys").await.as_array().unwrap().len(), 1);
        all_good(&to).await;
        if objects == Objects::Embedded {
            // Two images of 4 artifacts with 2 of history, and of 1; each with a manifest.
            let keys = to.keys("").await;
            assert_eq!(keys.len(), 9, "{keys:?}");
        }
    }
}

crate::on_both_stores! {
    an_export_is_gone_on_with
    an_import_is_gone_on_with
}
