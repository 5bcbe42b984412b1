//! Links of records: set once, to an existing object that belongs to no other record.

use super::App;
use super::manifest;
use super::problem::{Problem, Result};
use crate::standalone::objects::Objects;
use crate::standalone::records::{Image, Link, Recipe, Record};

/// A record with a link.
pub trait Linked: Record {
    /// What messages call it.
    const NOUN: &'static str;
    fn link(&self) -> Option<&Link>;
    /// Whether such a record may link to this.
    fn judge(objects: &Objects, link: &Link) -> impl Future<Output = Result<()>> + Send;
}

impl Linked for Image {
    const NOUN: &'static str = "image";

    fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    async fn judge(objects: &Objects, link: &Link) -> Result<()> {
        manifest::check(objects, link).await
    }
}

impl Linked for Recipe {
    const NOUN: &'static str = "recipe";

    fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    async fn judge(objects: &Objects, link: &Link) -> Result<()> {
        let object = manifest::object(link)?;
        match objects.head(&object).await? {
            Some(_) => Ok(()),
            None => Err(Problem::unprocessable(format!("There is no object {object}."))),
        }
    }
}

/// Whether a record whose link is `old` may get `new`. The caller holds `links`.
pub async fn check<T: Linked>(app: &App, old: Option<&Link>, new: Option<&Link>) -> Result<()> {
    let Some(new) = new else { return Ok(()) };
    match old {
        Some(old) if old == new => return Ok(()),
        Some(_) => {
            let noun = T::NOUN;
            return Err(Problem::conflict(format!("The {noun} has another link; it is set once.")));
        }
        None => {}
    }
    for record in app.records.list::<T>().await? {
        if record.link().is_some_and(|other| other.path == new.path) {
            let (noun, id, path) = (T::NOUN, record.id(), &new.path);
            return Err(Problem::unprocessable(format!(
                "The {noun} {id} links to {path} already."
            )));
        }
    }
    T::judge(&app.objects, new).await
}
