//! Who may see and steer.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::Response,
};
use dispatch_core::config::{AdminConfig, Secret};
use subtle::ConstantTimeEq as _;

use super::refuse;

/// What a request must show.
#[derive(Debug)]
pub(super) struct Guard {
    token: Option<Secret>,
}

impl Guard {
    pub(super) fn new(config: &AdminConfig) -> Self {
        Self {
            token: config.token.clone(),
        }
    }

    fn admits(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        let Some(token) = &self.token else {
            // Without a token a page in a browser on this machine could ask as well: it cannot hide where it is from
            // (`Origin`), nor under which name it found us (`Host`).
            return if headers.contains_key(ORIGIN) || !is_local(headers.get(HOST)) {
                Err((
                    StatusCode::FORBIDDEN,
                    "not for pages in a browser; set a token under [admin]",
                ))
            } else {
                Ok(())
            };
        };
        let shown = headers
            .get(AUTHORIZATION)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let shown = shown
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        match shown {
            Some((_, shown)) if shown.ct_eq(token.expose().as_bytes()).into() => Ok(()),
            _ => Err((StatusCode::UNAUTHORIZED, "the token is missing or wrong")),
        }
    }
}

/// Whether the name that the caller has for us is an address or `localhost`, which no name server can make point here.
fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

/// Lets through who may.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admits(request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, words)) => {
            let mut response = refuse(status, words);
            if status == StatusCode::UNAUTHORIZED {
                response
                    .headers_mut()
                    .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(token: Option<&str>, headers: &[(&'static str, &'static str)]) -> Option<StatusCode> {
        let guard = Guard {
            token: token.map(Secret::new),
        };
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        guard.admits(&headers).err().map(|(status, _)| status)
    }

    #[test]
    fn a_token_is_asked_for_where_one_is_set() {
        assert_eq!(asked(Some("t"), &[("authorization", "Bearer t")]), None);
        assert_eq!(asked(Some("t"), &[("authorization", "bearer t")]), None);
        for shown in ["Bearer x", "Bearer ", "t", "Basic dDp0", ""] {
            let headers = [("authorization", shown)];
            assert_eq!(asked(Some("t"), &headers), Some(StatusCode::UNAUTHORIZED), "{shown}");
        }
        assert_eq!(asked(Some("t"), &[]), Some(StatusCode::UNAUTHORIZED));
    }

    #[test]
    fn a_page_in_a_browser_is_refused_where_no_token_is_set() {
        for host in ["127.0.0.1:9090", "localhost:9090", "localhost", "[::1]:9090"] {
            assert_eq!(asked(None, &[("host", host)]), None, "{host}");
        }
        assert_eq!(
            asked(None, &[("host", "evil.example:9090")]),
            Some(StatusCode::FORBIDDEN)
        );
        let page = [("host", "127.0.0.1:9090"), ("origin", "https://evil.example")];
        assert_eq!(asked(None, &page), Some(StatusCode::FORBIDDEN));
    }
}
