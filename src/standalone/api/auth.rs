//! Who may use the API: everyone on loopback, else those with the token.
//!
//! Jobs get the token the way pods do, from an OAuth endpoint by client credentials: `grant` is
//! that endpoint (contract section 2, `OAUTH_CLIENT_*`).

use axum::Json;
use axum::extract::{Form, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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

/// A client-credentials grant (RFC 6749 section 4.4).
#[derive(Deserialize)]
pub struct Grant {
    grant_type: String,
    client_secret: SecretString,
}

pub async fn grant(State(app): State<Shared>, Form(grant): Form<Grant>) -> Result<Json<Value>> {
    if grant.grant_type != "client_credentials" {
        return Err(Problem::bad_request("grant_type must be client_credentials."));
    }
    match &app.token {
        Some(token) if same(grant.client_secret.expose_secret(), token) => Ok(Json(json!({
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
