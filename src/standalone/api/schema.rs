//! The schema of bodies, as data; all faults of a body are found at once, by field.
//!
//! Texts and leniency follow IMS, which uses marshmallow: `"true"` is a boolean, `"15"` a number.

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// One field of a body.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    pub nullable: bool,
}

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    /// Text of at least one character.
    Name,
    OneOf(&'static [&'static str]),
    Flag,
    /// A whole number of at least this.
    Whole(i64),
    Id,
    /// A map from text to text.
    Map,
    Object(&'static [Field]),
    List(&'static [Field]),
    /// One object, or a list of them; a list in the result.
    OneOrMore(&'static [Field]),
}

impl Field {
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, required: true, nullable: false }
    }

    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, required: false, nullable: false }
    }

    pub const fn nullable(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, required: false, nullable: true }
    }
}

/// A link to an artifact.
pub const LINK: &[Field] = &[
    Field::required("path", Kind::Name),
    Field::optional("etag", Kind::Text),
    Field::required("type", Kind::OneOf(&["s3"])),
];

pub const ARCH: Kind = Kind::OneOf(&["aarch64", "x86_64"]);

/// The fields of `body` in their proper types, or the faults by field.
pub fn check(fields: &[Field], body: &Value) -> Result<Map<String, Value>, Map<String, Value>> {
    let Some(body) = body.as_object() else {
        return Err(one_error("_schema", "Invalid input type."));
    };
    let mut values = Map::new();
    let mut errors = Map::new();
    for field in fields {
        match body.get(field.name) {
            None if field.required => {
                errors.insert(field.name.into(), json!(["Missing data for required field."]));
            }
            None => {}
            Some(Value::Null) if field.nullable => {}
            Some(Value::Null) => {
                errors.insert(field.name.into(), json!(["Field may not be null."]));
            }
            Some(value) => match field.kind.check(value) {
                Ok(value) => _ = values.insert(field.name.into(), value),
                Err(fault) => _ = errors.insert(field.name.into(), fault),
            },
        }
    }
    for name in body.keys() {
        if !fields.iter().any(|field| field.name == name) {
            errors.insert(name.clone(), json!(["Unknown field."]));
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}

fn one_error(field: &str, text: &str) -> Map<String, Value> {
    Map::from_iter([(field.to_owned(), json!([text]))])
}

impl Kind {
    fn check(self, value: &Value) -> Result<Value, Value> {
        match self {
            Kind::Text => text(value).map(Value::from),
            Kind::Name => match text(value)? {
                "" => Err(json!(["Field must not be blank."])),
                text => Ok(text.into()),
            },
            Kind::OneOf(choices) => match text(value)? {
                text if choices.contains(&text) => Ok(text.into()),
                _ => Err(json!([format!("Must be one of: {}.", choices.join(", "))])),
            },
            Kind::Flag => flag(value).map(Value::from).ok_or(json!(["Not a valid boolean."])),
            Kind::Whole(least) => match whole(value) {
                Some(number) if number >= least => Ok(number.into()),
                Some(_) => Err(json!([format!("Must be greater than or equal to {least}.")])),
                None => Err(json!(["Not a valid integer."])),
            },
            Kind::Id => match value.as_str().and_then(|id| Uuid::parse_str(id).ok()) {
                Some(id) => Ok(id.to_string().into()),
                None => Err(json!(["Not a valid UUID."])),
            },
            Kind::Map => match value.as_object() {
                Some(map) if map.values().all(Value::is_string) => Ok(value.clone()),
                Some(_) => Err(json!(["All values must be strings."])),
                None => Err(json!(["Not a valid mapping type."])),
            },
            Kind::Object(fields) => Ok(check(fields, value)?.into()),
            Kind::List(fields) => list(fields, value),
            Kind::OneOrMore(fields) if value.is_object() => Ok(json!([check(fields, value)?])),
            Kind::OneOrMore(fields) => list(fields, value),
        }
    }
}

fn text(value: &Value) -> Result<&str, Value> {
    value.as_str().ok_or_else(|| json!(["Not a valid string."]))
}

/// What marshmallow takes for true and false.
fn flag(value: &Value) -> Option<bool> {
    const TRUE: [&str; 5] = ["t", "true", "on", "y", "yes"];
    const FALSE: [&str; 5] = ["f", "false", "off", "n", "no"];
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) if number.as_i64() == Some(1) => Some(true),
        Value::Number(number) if number.as_i64() == Some(0) => Some(false),
        Value::String(text) => match text.to_lowercase().as_str() {
            "1" => Some(true),
            "0" => Some(false),
            text if TRUE.contains(&text) => Some(true),
            text if FALSE.contains(&text) => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Faults of a list are reported by position, as marshmallow does.
fn list(fields: &[Field], value: &Value) -> Result<Value, Value> {
    let items = value.as_array().ok_or_else(|| json!(["Not a valid list."]))?;
    let mut values = Vec::new();
    let mut errors = Map::new();
    for (position, item) in items.iter().enumerate() {
        match check(fields, item) {
            Ok(item) => values.push(Value::Object(item)),
            Err(faults) => _ = errors.insert(position.to_string(), faults.into()),
        }
    }
    if errors.is_empty() { Ok(values.into()) } else { Err(errors.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field::required("name", Kind::Name),
        Field::nullable("link", Kind::Object(LINK)),
        Field::optional("size", Kind::Whole(1)),
        Field::optional("debug", Kind::Flag),
        Field::optional("id", Kind::Id),
        Field::optional("labels", Kind::Map),
        Field::optional("items", Kind::List(&[Field::required("key", Kind::Text)])),
    ];

    #[test]
    fn all_faults_are_told_at_once() {
        let body = json!({
            "link": { "path": "", "type": "http" },
            "size": 0, "debug": "maybe", "id": "x", "labels": { "a": 1 },
            "items": [{ "key": "a" }, { "key": 1 }],
            "bogus": 1,
        });
        let errors = check(FIELDS, &body).unwrap_err();
        let fields: Vec<&str> = errors.keys().map(String::as_str).collect();
        let mut expected =
            ["bogus", "debug", "id", "items", "labels", "link", "name", "size"].to_vec();
        expected.sort_unstable();
        let mut found = fields.clone();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(errors["items"], json!({ "1": { "key": ["Not a valid string."] } }));
        assert_eq!(errors["link"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn lenient_values_come_out_in_their_types() {
        let body = json!({ "name": "n", "link": null, "size": "15", "debug": "True" });
        let values = check(FIELDS, &body).unwrap();
        assert_eq!(Value::from(values), json!({ "name": "n", "size": 15, "debug": true }));
    }

    #[test]
    fn a_body_that_is_no_object_and_nulls_are_refused() {
        assert!(check(FIELDS, &json!([1])).unwrap_err().contains_key("_schema"));
        assert!(check(FIELDS, &json!({ "name": null })).unwrap_err().contains_key("name"));
    }
}
