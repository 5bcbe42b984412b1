//! The standalone of this machine, where a command means it: its address, token and keys.

use std::path::PathBuf;

use anyhow::Context;
use secrecy::ExposeSecret;
use url::Url;

use super::environment;
use crate::contract::vars;
use crate::standalone::here::{self, Here};
use crate::standalone::read_keys;

/// What a command did not say and standalone's file for clients does.
#[derive(Debug, Default)]
pub struct Local {
    variables: Vec<(&'static str, String)>,
    pub token_file: Option<PathBuf>,
}

impl Local {
    /// Finds the standalone server to use: the only one if no IMS is named, else the one with
    /// exactly the named URL. Its settings are used for no other IMS.
    pub fn find(said: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let said = |name: &str| said(name).filter(|text| !text.trim().is_empty());
        // Other credentials are for another service.
        let others = [&vars::OAUTH_CONFIG_DIR, &vars::OAUTH_CLIENT_SECRET];
        if others.iter().any(|var| said(var.name).is_some()) {
            return Ok(Self::default());
        }
        let url = said(vars::IMS_URL.name);
        if url.is_none() && said(vars::API_GATEWAY_HOSTNAME.name).is_some() {
            return Ok(Self::default());
        }
        match choose(running(), url.as_deref())? {
            Some(here) => Self::of(here, said),
            None => Ok(Self::default()),
        }
    }

    fn of(here: Here, said: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        tracing::info!(ims = %here.ims_url, "using the standalone server on this machine");
        let mut variables = vec![(vars::IMS_URL.name, plain(&here.ims_url))];
        let endpoint = said(vars::S3_ENDPOINT.name).or_else(|| said(vars::S3_HOST.name));
        let its_store = endpoint.as_deref().is_none_or(|text| is_same(text, &here.s3_endpoint));
        if its_store {
            variables.push((vars::S3_ENDPOINT.name, plain(&here.s3_endpoint)));
        }
        let keys = [&vars::S3_ACCESS_KEY, &vars::S3_SECRET_KEY];
        let none_given = keys.iter().all(|var| said(var.name).is_none());
        if let Some(path) = here.s3_keys_file.filter(|_| its_store && none_given) {
            let keys =
                read_keys(&path).context("cannot use the S3 keys of the standalone server")?;
            variables.push((vars::S3_ACCESS_KEY.name, keys.access));
            variables.push((vars::S3_SECRET_KEY.name, keys.secret.expose_secret().to_owned()));
        }
        Ok(Self { variables, token_file: Some(here.token_file) })
    }

    /// A variable that was not said.
    pub fn get(&self, name: &str) -> Option<String> {
        let mut all = self.variables.iter();
        all.find(|(found, _)| *found == name).map(|(_, value)| value.clone())
    }
}

fn running() -> Vec<Here> {
    let runtime = environment::path("XDG_RUNTIME_DIR");
    let Some(directory) = here::directory(runtime) else { return Vec::new() };
    here::running(&directory).unwrap_or_else(|error| {
        tracing::warn!(
            directory = %directory.display(),
            %error,
            "cannot read which standalone servers run on this machine; ignoring this directory"
        );
        Vec::new()
    })
}

fn choose(mut running: Vec<Here>, url: Option<&str>) -> anyhow::Result<Option<Here>> {
    if let Some(url) = url {
        let url = url.trim().parse::<Url>().ok();
        return Ok(url.and_then(|url| running.into_iter().find(|here| here.is_at(&url))));
    }
    if running.len() > 1 {
        let urls: Vec<_> = running.iter().map(|here| plain(&here.ims_url)).collect();
        anyhow::bail!(
            "several standalone servers run on this machine; choose one with --ims-url: {}",
            urls.join(", ")
        );
    }
    Ok(running.pop())
}

fn is_same(text: &str, url: &Url) -> bool {
    text.trim().parse::<Url>().is_ok_and(|other| plain(&other) == plain(url))
}

fn plain(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(port: u16) -> Here {
        let url = |port| Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        Here {
            ims_url: url(port),
            token_file: format!("/data/{port}/token").into(),
            s3_endpoint: url(port + 1),
            s3_keys_file: None,
        }
    }

    #[test]
    fn the_only_one_or_the_very_one_is_chosen() {
        let chosen = |running: &[u16], url| {
            let running = running.iter().map(|port| here(*port)).collect();
            choose(running, url).map(|here| here.and_then(|here| here.ims_url.port()))
        };
        assert_eq!(chosen(&[], None).unwrap(), None);
        assert_eq!(chosen(&[1], None).unwrap(), Some(1));
        assert!(chosen(&[1, 2], None).unwrap_err().to_string().contains("--ims-url"));
        assert_eq!(chosen(&[1, 2], Some("http://127.0.0.1:2/")).unwrap(), Some(2));
        for other in ["http://127.0.0.1:3", "http://localhost:1", "https://ims", "nonsense"] {
            assert_eq!(chosen(&[1, 2], Some(other)).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn what_is_said_wins_and_keys_go_to_their_own_store_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::write(&keys, r#"{"access_key": "a", "secret_key": "s"}"#).unwrap();
        let of = |said: &[(&str, &str)]| {
            let here = Here { s3_keys_file: Some(keys.clone()), ..here(1) };
            let find = |name: &str| {
                let mut said = said.iter();
                said.find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
            };
            Local::of(here, find).unwrap()
        };
        let all = of(&[]);
        assert_eq!(all.get("IMS_URL").as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(all.get("S3_ENDPOINT").as_deref(), Some("http://127.0.0.1:2"));
        assert_eq!(all.get("S3_SECRET_KEY").as_deref(), Some("s"));
        let elsewhere = of(&[("S3_ENDPOINT", "http://elsewhere")]);
        assert_eq!((elsewhere.get("S3_ENDPOINT"), elsewhere.get("S3_SECRET_KEY")), (None, None));
        assert_eq!(of(&[("S3_ACCESS_KEY", "mine")]).get("S3_SECRET_KEY"), None);
    }
}
