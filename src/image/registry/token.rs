//! Proof of who one is: Basic, or a token from the server that the registry names.

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::credentials::{Credentials, credentials};
use super::host::{Host, body_text};
use super::{Registry, RegistryError};

/// How long a token is good that does not say so.
const TOKEN_LIFE: Duration = Duration::from_mins(1);
/// A token is not used in its last moments.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);
const CLIENT: &str = "containerd-compose";

/// Value of the header `Authorization`, and until when.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    /// Marked as sensitive: it shows in no log.
    pub(super) value: HeaderValue,
    expires: Option<Instant>,
    /// Somebody's, not anybody's.
    is_personal: bool,
}

impl Authorization {
    fn new(scheme: &str, secret: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(&format!("{scheme} {secret}")).ok()?;
        value.set_sensitive(true);
        Some(Self {
            value,
            expires: None,
            is_personal: true,
        })
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenAnswer {
    token: String,
    access_token: String,
    expires_in: Option<u64>,
}

impl Registry {
    /// Gets what `host` wants to see for `scope`, as its answer with `headers` says, and remembers it. False: there is
    /// nothing that we could show.
    pub(super) async fn authorize(
        &self,
        host: &Host,
        scope: &str,
        headers: &HeaderMap,
    ) -> Result<bool, RegistryError> {
        let challenge = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| challenge::parse(value.to_str().ok()?))
            .max_by_key(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let Some(challenge) = challenge else {
            return Ok(false);
        };
        let credentials = credentials(&self.settings, &host.endpoint.host).await?;
        let authorization = match (challenge, credentials) {
            (Challenge::Basic, Some(Credentials::Password { user, password })) => {
                let secret = BASE64.encode(format!("{user}:{password}").as_bytes());
                Authorization::new("Basic", &secret)
            }
            (Challenge::Basic, _) => None,
            (Challenge::Bearer { .. }, Some(Credentials::Access { token })) => {
                Authorization::new("Bearer", &token)
            }
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope: asked,
                },
                credentials,
            ) => {
                let asked = asked.filter(|asked| !asked.is_empty());
                let scopes = merged(scope, asked.as_deref());
                let request = TokenRequest {
                    realm: &realm,
                    service: service.as_deref().unwrap_or_default(),
                    scopes: &scopes,
                };
                Some(self.token(host, &request, credentials.as_ref()).await?)
            }
        };
        let Some(authorization) = authorization else {
            return Ok(false);
        };
        self.remember(host, scope, authorization);
        Ok(true)
    }

    async fn token(
        &self,
        host: &Host,
        request: &TokenRequest<'_>,
        credentials: Option<&Credentials>,
    ) -> Result<Authorization, RegistryError> {
        let name = &host.endpoint.host;
        let nonsense = |reason: &str| RegistryError::Nonsense {
            host: name.clone(),
            reason: reason.into(),
        };
        let mut realm =
            Url::parse(request.realm).map_err(|_| nonsense("its token server has no address"))?;
        let same_trust = host.endpoint.base.scheme() == "http" || realm.scheme() == "https";
        if !same_trust && credentials.is_some() {
            return Err(nonsense("it wants credentials to be sent without TLS"));
        }
        // A server of another name is not trusted more than the system does.
        let is_own = realm.host_str() == host.endpoint.base.host_str();
        let client = if is_own {
            host.client()?
        } else {
            self.plain_client()?
        };
        let answer = if let Some(Credentials::Identity { token }) = credentials {
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("service", request.service),
                ("client_id", CLIENT),
                ("refresh_token", token),
            ];
            let scope = request.scopes.join(" ");
            form.push(("scope", &scope));
            let mut url = Url::parse("http://form").map_err(|_| nonsense("no form"))?;
            url.query_pairs_mut().extend_pairs(form);
            client
                .post(realm.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .body(url.query().unwrap_or_default().to_owned())
        } else {
            {
                let mut query = realm.query_pairs_mut();
                if !request.service.is_empty() {
                    query.append_pair("service", request.service);
                }
                for scope in request.scopes {
                    query.append_pair("scope", scope);
                }
                if let Some(Credentials::Password { user, .. }) = credentials {
                    query.append_pair("account", user);
                }
            }
            let get = client.get(realm.clone());
            match credentials {
                Some(Credentials::Password { user, password }) => {
                    let secret = BASE64.encode(format!("{user}:{password}").as_bytes());
                    let basic = Authorization::new("Basic", &secret);
                    let basic = basic.ok_or_else(|| nonsense("credentials are not text"))?;
                    get.header(AUTHORIZATION, basic.value)
                }
                _ => get,
            }
        };
        let realm_host = realm.host_str().unwrap_or(name).to_owned();
        let response = answer
            .send()
            .await
            .map_err(|error| RegistryError::from_transport(&realm_host, error))?;
        let status = response.status();
        if !status.is_success() {
            let message = body_text(response).await;
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                    RegistryError::Unauthorized {
                        host: name.clone(),
                        repository: request.repository(),
                        refused: credentials.is_some(),
                        message,
                    }
                }
                StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests {
                    host: realm_host,
                    wait: None,
                    message,
                },
                status => RegistryError::Status {
                    host: realm_host,
                    status: status.as_u16(),
                    message,
                },
            });
        }
        let bytes = response
            .bytes()
            .await
            .map_err(|error| RegistryError::from_transport(&realm_host, error))?;
        let answer: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| nonsense("its token server does not answer with a token"))?;
        let token = if answer.token.is_empty() {
            answer.access_token
        } else {
            answer.token
        };
        let life = answer.expires_in.map_or(TOKEN_LIFE, Duration::from_secs);
        let authorization = Authorization::new("Bearer", &token).filter(|_| !token.is_empty());
        let authorization =
            authorization.ok_or_else(|| nonsense("its token server gives an empty token"))?;
        Ok(Authorization {
            expires: Instant::now().checked_add(life.saturating_sub(TOKEN_MARGIN)),
            is_personal: credentials.is_some(),
            ..authorization
        })
    }

    /// Whether credentials are behind what `host` was shown.
    pub(super) fn is_personal(&self, host: &Host, scope: &str) -> bool {
        self.authorization(host, scope)
            .is_some_and(|authorization| authorization.is_personal)
    }
}

struct TokenRequest<'a> {
    realm: &'a str,
    service: &'a str,
    scopes: &'a [String],
}

impl TokenRequest<'_> {
    /// As `library/busybox` of `repository:library/busybox:pull`.
    fn repository(&self) -> String {
        let scope = self.scopes.first().map(String::as_str).unwrap_or_default();
        scope.split(':').nth(1).unwrap_or(scope).to_owned()
    }
}

/// Our scopes (parted by spaces), and what the registry asks for beside them.
fn merged(own: &str, asked: Option<&str>) -> Vec<String> {
    let mut scopes: Vec<String> = own.split(' ').map(ToOwned::to_owned).collect();
    for scope in asked.into_iter().flat_map(|asked| asked.split(' ')) {
        // Of one repository the registry knows best what it takes.
        let repository = scope.rsplit_once(':').map_or(scope, |(name, _)| name);
        let known = scopes
            .iter_mut()
            .find(|known| known.rsplit_once(':').map(|(name, _)| name) == Some(repository));
        match known {
            Some(known) => scope.clone_into(known),
            None => scopes.push(scope.to_owned()),
        }
    }
    scopes.retain(|scope| !scope.is_empty());
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_asks_for_goes_before_our_guess() {
        let own = "repository:a:pull repository:b:pull";
        assert_eq!(
            merged(own, Some("repository:a:pull,push")),
            ["repository:a:pull,push", "repository:b:pull"]
        );
        assert_eq!(merged("repository:a:pull", None), ["repository:a:pull"]);
    }
}
