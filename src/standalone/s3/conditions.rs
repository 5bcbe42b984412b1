//! If-Match and its kin (RFC 9110 section 13).

use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use super::model::Object;
use super::service::stamp;

/// The conditions of a request that reads.
#[derive(Debug, Default)]
pub struct Conditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub modified_since: Option<Timestamp>,
    pub unmodified_since: Option<Timestamp>,
}

/// 412 or 304 where a reading request says so.
pub fn read(conditions: &Conditions, object: &Object) -> S3Result<()> {
    let modified = whole_seconds(object.modified);
    let failed = match (&conditions.if_match, &conditions.unmodified_since) {
        (Some(condition), _) => !matches(condition, object),
        (None, Some(since)) => modified > *since,
        (None, None) => false,
    };
    if failed {
        return Err(s3_error!(PreconditionFailed));
    }
    let unchanged = match (&conditions.if_none_match, &conditions.modified_since) {
        (Some(condition), _) => matches(condition, object),
        (None, Some(since)) => modified <= *since,
        (None, None) => false,
    };
    if unchanged {
        return Err(not_modified());
    }
    Ok(())
}

/// Whether a writing request may replace `old`.
pub fn write(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    old: Option<&Object>,
) -> bool {
    let matched = |condition: &ETagCondition| old.is_some_and(|old| matches(condition, old));
    if_match.is_none_or(matched) && !if_none_match.is_some_and(matched)
}

fn matches(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.weak_cmp(&ETag::Strong(object.etag.clone())),
    }
}

/// HTTP dates have whole seconds.
fn whole_seconds(micros: u64) -> Timestamp {
    stamp(micros / 1_000_000 * 1_000_000)
}

fn not_modified() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_status_code(http::StatusCode::NOT_MODIFIED);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standalone::s3::model::Attributes;

    fn object() -> Object {
        Object {
            segments: vec![],
            size: 0,
            etag: "abc".into(),
            modified: 5_400_000,
            attributes: Attributes::default(),
        }
    }

    fn etag(value: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(value.into())))
    }

    #[test]
    fn reading_answers_412_and_304() {
        let status = |conditions: Conditions| {
            read(&conditions, &object()).err().map(|e| e.status_code().unwrap().as_u16())
        };
        let none = Conditions::default;
        assert_eq!(status(none()), None);
        assert_eq!(status(Conditions { if_match: etag("abc"), ..none() }), None);
        assert_eq!(status(Conditions { if_match: etag("x"), ..none() }), Some(412));
        assert_eq!(status(Conditions { if_none_match: etag("abc"), ..none() }), Some(304));
        assert_eq!(status(Conditions { if_none_match: etag("x"), ..none() }), None);
        let at = |seconds: u64| Some(stamp(seconds * 1_000_000));
        assert_eq!(status(Conditions { modified_since: at(5), ..none() }), Some(304));
        assert_eq!(status(Conditions { modified_since: at(4), ..none() }), None);
        assert_eq!(status(Conditions { unmodified_since: at(4), ..none() }), Some(412));
        assert_eq!(status(Conditions { unmodified_since: at(5), ..none() }), None);
    }

    #[test]
    fn writing_compares_with_what_is_there() {
        let old = object();
        let any = Some(ETagCondition::Any);
        assert!(write(None, None, None));
        assert!(write(None, any.as_ref(), None));
        assert!(!write(None, any.as_ref(), Some(&old)));
        assert!(write(etag("abc").as_ref(), None, Some(&old)));
        assert!(!write(etag("x").as_ref(), None, Some(&old)));
        assert!(!write(etag("abc").as_ref(), None, None));
    }
}
