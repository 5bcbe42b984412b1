//! Who may use the API: everyone on loopback, else those with the token.
//!
//! Jobs get the token the way pods do, from an OAuth endpoint by client credentials: `grant` is
//! that endpoint (contract section 2, `OAUTH_CLIENT_*`).

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use super::Shared;
use super::problem::{Problem, Result};

/// Seconds after which clients ask again; the token itself does not change while we run.
const LIFETIME: u64 = 3600;

/// Lets a request through that carries the token.
pub async fn check(State(app): State<Shared>, request: Request, next: Next) -> Result<Response> {
    if let Some(token) = &app.token {
        let sent = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        if !sent.is_some_and(|sent| same(sent, token)) {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "Send the token of this service as Authorization: Bearer.",
            ));
        }
    }
    Ok(next.run(request).await)
}

/// A client-credentials grant (RFC 6749 section 4.4), the secret in the form.
pub async fn grant(State(app): State<Shared>, form: String) -> Result<Json<Value>> {
    let field = |name| {
        let mut fields = form_urlencoded::parse(form.as_bytes());
        fields.find_map(|(found, value)| (found == name).then(|| value.into_owned()))
    };
    if field("grant_type").as_deref() != Some("client_credentials") {
        return Err(Problem::bad_request("grant_type must be client_credentials."));
    }
    match (&app.token, field("client_secret")) {
        (Some(token), Some(secret)) if same(&secret, token) => Ok(Json(json!({
            "access_token": token.expose_secret(),
            "token_type": "Bearer",
            "expires_in": LIFETIME,
        }))),
        _ => Err(Problem::new(StatusCode::UNAUTHORIZED, "The client secret is wrong.")),
    }
}

/// Compares digests, so that the time taken tells nothing of the token.
fn same(sent: &str, token: &SecretString) -> bool {
    Sha256::digest(sent) == Sha256::digest(token.expose_secret())
}
