//! Authenticates requests to the API: the owner has the token of this service; each job has its own
//! token for its own record and images.
//!
//! Jobs get the token the way pods do, from an OAuth endpoint by client credentials: `grant` is
//! that endpoint (contract section 2, `OAUTH_CLIENT_*`).

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use super::problem::{Problem, Result};
use super::{App, Shared};
use crate::standalone::grants::{Grant, same};

/// Seconds after which clients ask again; the token itself does not change while we run.
const LIFETIME: u64 = 3600;
/// Longest form of a grant, in bytes, and how long it may take to come.
const LONGEST_FORM: usize = 16 * 1024;
const FORM_TIME: Duration = Duration::from_secs(10);

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Owner,
    /// A job or a session of CFS: the id of its rights.
    Job(Uuid),
}

/// Lets a request through whose token allows it, and says whose it is.
pub async fn check(
    State(app): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let caller = bearer(request.headers()).and_then(|token| caller(&app, token));
    let caller = caller.ok_or_else(|| {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "Send the token of this service as Authorization: Bearer. The commands of ims-job-agent \
             take it with --token-file.",
        )
    })?;
    if let Caller::Job(id) = caller {
        let (method, uri) = (request.method(), request.uri());
        let may = app.grants.with(id, |grant| may(grant, method, uri.path(), uri.query()));
        if may != Some(true) {
            tracing::debug!(job = %id, %method, path = uri.path(), "refused to a job");
            return Err(forbidden());
        }
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The answer to a job that requests more than its own.
pub fn forbidden() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "This is the token of a job: it is good for the job's own record and images alone.",
    )
}

/// A client-credentials grant (RFC 6749 section 4.4), the secret in the form.
///
/// Anybody may ask: what is read of a request is short, and is not waited for.
pub async fn grant(State(app): State<Shared>, request: Request) -> Result<Json<Value>> {
    let body = axum::body::to_bytes(request.into_body(), LONGEST_FORM);
    let body = tokio::time::timeout(FORM_TIME, body).await;
    let Ok(Ok(form)) = body else {
        return Err(Problem::bad_request("The form is too long, or comes too slowly."));
    };
    let field = |name| {
        let mut fields = form_urlencoded::parse(&form);
        fields.find_map(|(found, value)| (found == name).then(|| value.into_owned()))
    };
    if field("grant_type").as_deref() != Some("client_credentials") {
        return Err(Problem::bad_request("grant_type must be client_credentials."));
    }
    match field("client_secret").filter(|secret| caller(&app, secret).is_some()) {
        Some(token) => Ok(Json(json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": LIFETIME,
        }))),
        None => Err(Problem::new(StatusCode::UNAUTHORIZED, "The client secret is wrong.")),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn caller(app: &App, token: &str) -> Option<Caller> {
    if same(token, app.token.expose_secret()) {
        return Some(Caller::Owner);
    }
    app.grants.of_token(token).map(Caller::Job)
}

/// Everything that a job may ask for; the handlers see to what is in the bodies.
fn may(grant: &Grant, method: &Method, path: &str, query: Option<&str>) -> bool {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let (v3, parts) = match &parts[..] {
        ["v3", rest @ ..] => (true, rest),
        ["v2", rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (read, write) = (method == Method::GET, method == Method::PATCH);
    match parts {
        ["version"] => read,
        ["images"] => (read || method == Method::POST) && query.is_none(),
        [collection, id] => {
            let Ok(id) = Uuid::parse_str(id) else { return false };
            let (reads, id) = (grant.reads(), Some(id));
            let made = id.is_some_and(|id| grant.made(id));
            match *collection {
                "jobs" => (read || write) && grant.job() == id,
                "images" if method == Method::DELETE => {
                    // What a manifest of its own lists need not be its own.
                    made && !v3 && query == Some("cascade=false")
                }
                "images" => (read && (made || reads.image == id)) || (write && made),
                "recipes" => read && reads.recipe == id,
                "public-keys" => read && reads.public_key == id,
                _ => false,
            }
        }
        _ => false,
    }
}
