//! Renders the templates that a recipe lists in place, with the values of its record (contract
//! section 8.2).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Component, Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use serde::Deserialize;
use serde_json::Value as Json;

use linux::dir::Dir;
use linux::files::OFlag;

/// The list of templates, at the top of a recipe.
pub const LIST: &str = ".ims_recipe_template.yaml";

/// The largest list, dictionary or template.
const LARGEST: u64 = 16 << 20;

/// Names and what they stand for.
pub type Values = BTreeMap<String, Json>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a map of names to values, in JSON or YAML")]
    Dictionary { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("{LIST} of the recipe is not valid: it must contain `template_files`, a list of paths")]
    List(#[source] Box<serde_saphyr::Error>),
    #[error(
        "{LIST} lists {file} as a template, but the recipe's record has no template_dictionary: \
         set one, or remove {LIST} from the recipe"
    )]
    NoValues { file: String },
    #[error("{LIST} lists {file:?}, which is not below the recipe")]
    Outside { file: String },
    #[error("{LIST} lists {file}, which is missing in the recipe or not a regular file")]
    Missing { file: String, source: io::Error },
    #[error("the template {file} is not UTF-8 text")]
    NoText { file: String },
    #[error("template {file}, line {line}: {what}")]
    Template { file: String, line: usize, what: String, source: minijinja::Error },
    #[error("cannot write the rendered {file}")]
    Write { file: String, source: io::Error },
}

#[derive(Debug, Default, Deserialize)]
struct List {
    #[serde(default)]
    template_files: Option<Vec<String>>,
}

/// Reads the values that the pod mounts; none where there is no such file.
pub fn load_values(path: &Path) -> Result<Values, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Values::new()),
        Err(source) => return Err(failed(source)),
    }
    if text.trim().is_empty() {
        return Ok(Values::new());
    }
    // YAML is nearly a superset of JSON; what a JSON parser takes is meant as JSON.
    if let Ok(values) = serde_json::from_str::<Option<Values>>(&text) {
        return Ok(values.unwrap_or_default());
    }
    let values: Option<Values> = serde_saphyr::from_str(&text)
        .map_err(|source| Error::Dictionary { path: path.into(), source: Box::new(source) })?;
    Ok(values.unwrap_or_default())
}

/// Renders the templates of the recipe in place; says which. Their mode and owner stay.
pub fn render(recipe: &Path, values: &Values) -> Result<Vec<String>, Error> {
    let root = Dir::open(recipe).map_err(|source| Error::Read { path: recipe.into(), source })?;
    let list = match root.read_inside(Path::new(LIST), LARGEST) {
        Ok(text) => read_list(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(Error::Read { path: recipe.join(LIST), source }),
    };
    match (list.first(), values.is_empty()) {
        (Some(file), true) => return Err(Error::NoValues { file: file.clone() }),
        (None, false) => {
            tracing::warn!(
                names = %values.keys().cloned().collect::<Vec<_>>().join(" "),
                "the recipe's record has values for templates, but {LIST} lists none"
            );
        }
        _ => {}
    }
    for file in &list {
        render_file(&root, file, values)?;
        tracing::info!(file, "template rendered");
    }
    Ok(list)
}

fn read_list(text: &[u8]) -> Result<Vec<String>, Error> {
    let list: Option<List> =
        serde_saphyr::from_slice(text).map_err(|source| Error::List(Box::new(source)))?;
    Ok(list.and_then(|list| list.template_files).unwrap_or_default())
}

fn render_file(root: &Dir, file: &str, values: &Values) -> Result<(), Error> {
    let path = Path::new(file);
    let below =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !below || file.is_empty() {
        return Err(Error::Outside { file: file.into() });
    }
    let missing = |source| Error::Missing { file: file.into(), source };
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut opened = root.open_inside(path, flags).map_err(missing)?;
    if !opened.metadata().map_err(missing)?.is_file() {
        return Err(missing(io::Error::other("not a regular file")));
    }
    let mut template = Vec::new();
    (&opened).take(LARGEST).read_to_end(&mut template).map_err(missing)?;
    let template = String::from_utf8(template).map_err(|_| Error::NoText { file: file.into() })?;
    let rendered = render_text(file, &template, values)?;
    let mut rewrite = || {
        opened.rewind()?;
        opened.write_all(rendered.as_bytes())?;
        opened.set_len(rendered.len() as u64)
    };
    rewrite().map_err(|source| Error::Write { file: file.into(), source })
}

fn render_text(file: &str, template: &str, values: &Values) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // As in Jinja2: values are inserted unchanged, also into XML.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters are valid"));
    environment.set_debug(true);
    let values: BTreeMap<String, Value> =
        values.iter().map(|(name, value)| (name.clone(), template_value(value))).collect();
    environment.render_named_str(file, template, values).map_err(|source| Error::Template {
        file: file.into(),
        line: source.line().unwrap_or_default(),
        what: explain(&source, template),
        source,
    })
}

fn template_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => values.iter().map(template_value).collect(),
        Json::Object(values) => {
            let pairs = values.iter().map(|(name, value)| (name.clone(), template_value(value)));
            Value::from(pairs.collect::<BTreeMap<String, Value>>())
        }
    }
}

/// What is wrong, with the piece of the template that it is about.
fn explain(error: &minijinja::Error, template: &str) -> String {
    let what = match error.kind() {
        minijinja::ErrorKind::UndefinedError => "the template_dictionary has no value for this \
            name"
            .into(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    match error.range().and_then(|range| template.get(range)) {
        Some(piece) if !piece.trim().is_empty() => format!("{:?}: {what}", piece.trim()),
        _ => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn recipe(list: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LIST), list).unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| (name.to_string(), (*value).into())).collect()
    }

    #[test]
    fn listed_files_are_rendered_in_place_with_their_mode() {
        let list = "template_files:\n  - config.xml\n  - root/etc/motd\n";
        let dir = recipe(
            list,
            &[
                ("config.xml", "<source path=\"{{ url }}\"/>\n"),
                ("root/etc/motd", "{% if n > 3 %}{{ n }}{% endif %} {{ absent | default('-') }}"),
                ("other", "{{ url }}"),
            ],
        );
        let motd = dir.path().join("root/etc/motd");
        std::fs::set_permissions(&motd, std::fs::Permissions::from_mode(0o750)).unwrap();
        let mut values = values(&[("url", "http://x/?a=1&b=<2>")]);
        values.insert("n".into(), 4.into());
        let rendered = render(dir.path(), &values).unwrap();
        assert_eq!(rendered, ["config.xml", "root/etc/motd"]);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("config.xml"), "<source path=\"http://x/?a=1&b=<2>\"/>\n");
        assert_eq!(read("root/etc/motd"), "4 -");
        assert_eq!(read("other"), "{{ url }}");
        assert_eq!(motd.metadata().unwrap().mode() & 0o7777, 0o750);
    }

    #[test]
    fn an_undefined_name_is_an_error_with_file_line_and_name() {
        let dir = recipe("template_files: [a/b.sh]", &[("a/b.sh", "x\ny\n{{ missing }}\n")]);
        let error = render(dir.path(), &values(&[("n", "1")])).unwrap_err().to_string();
        assert!(error.contains("a/b.sh, line 3") && error.contains("missing"), "{error}");
        let dir = recipe("template_files: [b]", &[("b", "\n{% if %}\n")]);
        let error = render(dir.path(), &values(&[("n", "1")])).unwrap_err().to_string();
        assert!(error.contains("template b, line 2"), "{error}");
    }

    #[test]
    fn what_is_listed_must_be_a_file_of_the_recipe() {
        let dir = recipe("", &[]);
        symlink("/etc/hostname", dir.path().join("absolute")).unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        for file in ["../outside", "/etc/hostname", "missing", "absolute", "directory", "a/../.."] {
            std::fs::write(dir.path().join(LIST), format!("template_files: [\"{file}\"]")).unwrap();
            let error = render(dir.path(), &values(&[("n", "1")])).unwrap_err().to_string();
            assert!(error.contains(file), "{error}");
        }
    }

    #[test]
    fn templates_need_values_and_values_alone_are_no_error() {
        let dir = recipe("template_files: [b]", &[("b", "")]);
        let error = render(dir.path(), &Values::new()).unwrap_err().to_string();
        assert!(error.contains("template_dictionary"), "{error}");
        std::fs::remove_file(dir.path().join(LIST)).unwrap();
        assert!(render(dir.path(), &values(&[("n", "1")])).unwrap().is_empty());
        assert!(render(dir.path(), &Values::new()).unwrap().is_empty());
    }

    #[test]
    fn values_come_as_json_or_yaml_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("template_dictionary");
        assert!(load_values(&path).unwrap().is_empty());
        for (text, count) in [
            ("", 0),
            ("{}", 0),
            ("null\n", 0),
            ("{\"A\": \"1\", \"B\": \"x\"}", 2),
            ("A: 1\nB: x\n", 2),
            ("---\nA: '1'\n", 1),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(load_values(&path).unwrap().len(), count, "{text:?}");
        }
        std::fs::write(&path, "- a\n- b\n").unwrap();
        assert!(load_values(&path).is_err());
    }
}
