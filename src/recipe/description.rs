//! Reads the parts of a recipe's `config.xml`, the kiwi description, that the job needs.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use url::Url;

use linux::dir::Dir;

/// Kiwi's name of the description, at the top of a recipe.
pub const FILE: &str = "config.xml";

/// No description is larger.
const LARGEST: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the recipe has no {FILE} at the top level of its archive{}: pack the recipe again, with \
         {FILE} outside any directory",
        found_at(.elsewhere)
    )]
    Missing { elsewhere: Option<PathBuf>, source: io::Error },
    #[error("{FILE} of the recipe is not UTF-8 text")]
    NoText,
    #[error("{FILE} of the recipe is not XML")]
    Xml(#[source] roxmltree::Error),
    #[error("{FILE} of the recipe is not a kiwi description: its root element is <{found}>")]
    NotKiwi { found: String },
    #[error("{FILE} of the recipe lists no repository to install packages from")]
    NoRepositories,
    #[error("{FILE} of the recipe, line {line}: a <source> without a path")]
    NoPath { line: u32 },
    #[error("{FILE} of the recipe, line {line}: the repository {path:?} is not a URL")]
    BadUrl { line: u32, path: String, source: url::ParseError },
}

fn found_at(elsewhere: &Option<PathBuf>) -> String {
    elsewhere.as_ref().map(|path| format!(" (there is {})", path.display())).unwrap_or_default()
}

/// The repositories of a recipe.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repositories {
    /// http and https: these can be asked whether they are up.
    pub http: Vec<Url>,
    /// `obs:`, `dir:`, `iso:`, paths: kiwi finds out itself.
    pub other: Vec<String>,
}

/// Reads the repositories of the recipe; one without any is an error.
pub fn repositories(recipe: &Path) -> Result<Repositories, Error> {
    let text = Dir::open(recipe)
        .and_then(|root| root.read_inside(Path::new(FILE), LARGEST))
        .map_err(|source| Error::Missing { elsewhere: elsewhere(recipe), source })?;
    parse(std::str::from_utf8(&text).map_err(|_| Error::NoText)?)
}

/// A description one directory down: the usual mistake.
fn elsewhere(recipe: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(recipe).ok()?.flatten();
    entries.find_map(|entry| {
        let path = PathBuf::from(entry.file_name()).join(FILE);
        recipe.join(&path).is_file().then_some(path)
    })
}

fn parse(text: &str) -> Result<Repositories, Error> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).map_err(Error::Xml)?;
    let top = document.root_element().tag_name().name();
    if top != "image" {
        return Err(Error::NotKiwi { found: top.into() });
    }
    let mut seen = BTreeSet::new();
    let mut repositories = Repositories::default();
    let sources = document
        .descendants()
        .filter(|node| node.has_tag_name("repository"))
        .flat_map(|node| node.children().filter(|child| child.has_tag_name("source")));
    for source in sources {
        let line = document.text_pos_at(source.range().start).row;
        let path = source.attribute("path").map(str::trim).filter(|path| !path.is_empty());
        let path = path.ok_or(Error::NoPath { line })?;
        if !seen.insert(path) {
            continue;
        }
        if is_http(path) {
            let url =
                path.parse().map_err(|source| Error::BadUrl { line, path: path.into(), source })?;
            repositories.http.push(url);
        } else {
            repositories.other.push(path.into());
        }
    }
    if seen.is_empty() {
        return Err(Error::NoRepositories);
    }
    Ok(repositories)
}

fn is_http(path: &str) -> bool {
    path.split_once("://").is_some_and(|(scheme, _)| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(content: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?>\n<image schemaversion=\"7.5\" name=\"x\">{content}</image>"
        )
    }

    fn repository(path: &str) -> String {
        format!("<repository type=\"rpm-md\"><source path=\"{path}\"/></repository>")
    }

    #[test]
    fn repositories_are_sorted_by_what_can_be_asked() {
        let paths = [
            "https://gw/repository/a/",
            "http://127.0.0.1:8081/b?x=1",
            "obs://Virtualization:Appliances/15",
            "dir:///srv/repo",
            "iso:///x.iso",
            "/srv/plain",
            "https://gw/repository/a/",
        ];
        let found = parse(&image(&paths.map(repository).concat())).unwrap();
        let http: Vec<_> = found.http.iter().map(Url::as_str).collect();
        assert_eq!(http, ["https://gw/repository/a/", "http://127.0.0.1:8081/b?x=1"]);
        let other = ["obs://Virtualization:Appliances/15", "dir:///srv/repo", "iso:///x.iso"];
        assert_eq!(found.other, [other[0], other[1], other[2], "/srv/plain"]);
    }

    #[test]
    fn what_cannot_be_built_is_named() {
        for (text, part) in [
            (image(""), "no repository"),
            ("<image".to_owned(), "not XML"),
            ("<html/>".to_owned(), "<html>"),
            (image("\n<repository><source/></repository>"), "line 3"),
            (image(&repository("http://[::1")), "not a URL"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_description_in_a_directory_of_the_archive_is_pointed_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("recipe-1.0")).unwrap();
        std::fs::write(dir.path().join("recipe-1.0/config.xml"), image("")).unwrap();
        let error = repositories(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("no config.xml") && error.contains("recipe-1.0/config.xml"),
            "{error}"
        );
    }
}
