//! Credentials as Docker keeps them: `config.json` and the helpers that it names.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use data_encoding::BASE64;
use indexmap::IndexMap;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::hosts::DOCKER_HOST;
use super::{RegistryError, RegistrySettings};

/// What Docker calls its own registry in `config.json`.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// A helper answers with this name where the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// A helper that waits for somebody to type must not hold a pull up for ever.
const HELPER_TIMEOUT: Duration = Duration::from_mins(1);

/// What a registry knows somebody by.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// To be exchanged for access tokens.
    Identity {
        token: String,
    },
    /// An access token that is good as it is.
    Access {
        token: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets do not belong in logs.
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity { .. } => "Identity",
            Self::Access { .. } => "Access",
        })
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigFile {
    auths: IndexMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: IndexMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Credentials for `host`; `None` if there are none.
pub(super) async fn credentials(
    settings: &RegistrySettings,
    host: &str,
) -> Result<Option<Credentials>, RegistryError> {
    let key = key(host);
    if let Some(text) = settings.variable("DOCKER_AUTH_CONFIG") {
        let path = PathBuf::from("DOCKER_AUTH_CONFIG");
        let file = parse(&path, text)?;
        if let Some(found) = file.entry(key).map(|entry| entry.credentials(&path)) {
            return found;
        }
    }
    let Some(path) = config_path(settings) else {
        return Ok(None);
    };
    let text = match tokio::fs::read_to_string(&path).await {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(RegistryError::Settings {
                path,
                message: error.to_string(),
            });
        }
    };
    let file = parse(&path, &text)?;
    if let Some(helper) = file.helper(key) {
        return ask_helper(settings, helper, key).await;
    }
    match file.entry(key) {
        Some(entry) => entry.credentials(&path),
        None => Ok(None),
    }
}

fn config_path(settings: &RegistrySettings) -> Option<PathBuf> {
    let folder = match settings.variable("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(settings.variable("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

fn parse(path: &std::path::Path, text: &str) -> Result<ConfigFile, RegistryError> {
    serde_json::from_str(text).map_err(|error| RegistryError::Settings {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// Under which name the credentials of a host are kept.
fn key(host: &str) -> &str {
    match host {
        DOCKER_HOST | "docker.io" | "index.docker.io" => DOCKER_KEY,
        host => host,
    }
}

/// `https://host/v1/` is meant for `host`, too.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

impl ConfigFile {
    fn helper(&self, key: &str) -> Option<&str> {
        let own = self.cred_helpers.get(key).or_else(|| {
            let mut helpers = self.cred_helpers.iter();
            helpers
                .find(|(name, _)| host_of(name) == host_of(key))
                .map(|(_, helper)| helper)
        });
        let helper = own.or(self.creds_store.as_ref())?;
        Some(helper.as_str()).filter(|helper| !helper.is_empty())
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.auths.get(key).or_else(|| {
            let mut entries = self.auths.iter();
            entries
                .find(|(name, _)| host_of(name) == host_of(key))
                .map(|(_, entry)| entry)
        })
    }
}

impl Entry {
    fn credentials(&self, path: &std::path::Path) -> Result<Option<Credentials>, RegistryError> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Credentials::Access { token }));
        }
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credentials::Identity { token }));
        }
        if let (Some(user), Some(password)) = (filled(&self.username), filled(&self.password)) {
            return Ok(Some(Credentials::Password { user, password }));
        }
        let Some(auth) = filled(&self.auth) else {
            return Ok(None);
        };
        let invalid = || RegistryError::Settings {
            path: path.to_owned(),
            message: "an `auth` is not `user:password` in base64".into(),
        };
        let bytes = BASE64.decode(auth.as_bytes()).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Some(Credentials::Password {
            user: user.into(),
            password: password.trim_end_matches('\0').into(),
        }))
    }
}

/// Asks `docker-credential-<helper>`, which reads a name and answers with JSON.
async fn ask_helper(
    settings: &RegistrySettings,
    helper: &str,
    key: &str,
) -> Result<Option<Credentials>, RegistryError> {
    let failed = |message: String| RegistryError::Helper {
        helper: helper.into(),
        message,
    };
    // A helper is a word, not a path.
    if helper.contains('/') {
        return Err(failed("its name has a slash".into()));
    }
    let program = format!("docker-credential-{helper}");
    let path = settings.variable("PATH").unwrap_or_default();
    let program = std::env::split_paths(path)
        .map(|folder| folder.join(&program))
        .find(|path| path.is_file())
        .ok_or_else(|| failed(format!("`{program}` is not on PATH")))?;
    let io_failed = |error: io::Error| failed(error.to_string());
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .env_clear()
        .envs(&settings.environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(io_failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why on its output.
        stdin.write_all(key.as_bytes()).await.ok();
    }
    let output = tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| {
            failed(format!(
                "no answer within {} seconds",
                HELPER_TIMEOUT.as_secs()
            ))
        })?
        .map_err(io_failed)?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(if said.is_empty() {
            output.status.to_string()
        } else {
            said
        }));
    }
    // The answer itself is secret, so what is wrong with it is not shown.
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is not of the protocol".into()))?;
    Ok(match answer {
        HelperAnswer { secret, .. } if secret.is_empty() => None,
        HelperAnswer { username, secret } if username == TOKEN_USER => {
            Some(Credentials::Identity { token: secret })
        }
        HelperAnswer { username, secret } => Some(Credentials::Password {
            user: username,
            password: secret,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Settings with a `config.json` and a helper `own`.
    fn settings(config: &str, helper: &str) -> (tempfile::TempDir, RegistrySettings) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let program = folder.path().join("docker-credential-own");
        std::fs::write(&program, format!("#!/bin/sh\n{helper}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let path = folder.path().display().to_string();
        let environment = IndexMap::from([
            ("DOCKER_CONFIG".into(), path.clone()),
            ("PATH".into(), format!("{path}:/usr/bin:/bin")),
        ]);
        let settings = RegistrySettings::new(environment);
        (folder, settings)
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password {
            user: user.into(),
            password: password.into(),
        }
    }

    #[tokio::test]
    async fn the_file_has_several_ways_to_say_it() {
        let (_folder, settings) = settings(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "bWU6c2U6Y3JldA=="},
                "https://old.test/v1/": {"username": "a", "password": "b"},
                "token.test": {"identitytoken": "it", "auth": ""},
                "ready.test": {"registrytoken": "rt"},
                "broken.test": {"auth": "!!"},
                "empty.test": {}
            }}"#,
            "exit 1",
        );
        let of = async |host| credentials(&settings, host).await;
        let found = of("registry-1.docker.io").await.unwrap();
        assert_eq!(found, Some(password("me", "se:cret")));
        assert_eq!(of("old.test").await.unwrap(), Some(password("a", "b")));
        let token = |token: &str| token.to_owned();
        assert_eq!(
            of("token.test").await.unwrap(),
            Some(Credentials::Identity { token: token("it") })
        );
        assert_eq!(
            of("ready.test").await.unwrap(),
            Some(Credentials::Access { token: token("rt") })
        );
        assert_eq!(of("empty.test").await.unwrap(), None);
        assert_eq!(of("other.test").await.unwrap(), None);
        assert!(of("broken.test").await.is_err());
    }

    #[tokio::test]
    async fn a_helper_is_asked_by_its_protocol() {
        let (_folder, settings) = settings(
            r#"{"credsStore": "missing", "credHelpers": {"a.test": "own", "b.test": "own", "c.test": "own"}}"#,
            r#"read -r host
               case "$1 $host" in
                   "get a.test") echo '{"ServerURL": "x", "Username": "u", "Secret": "s"}' ;;
                   "get b.test") echo '{"ServerURL": "x", "Username": "<token>", "Secret": "t"}' ;;
                   *) echo "credentials not found in native keychain"; exit 1 ;;
               esac"#,
        );
        let of = async |host| credentials(&settings, host).await;
        assert_eq!(of("a.test").await.unwrap(), Some(password("u", "s")));
        let token = "t".to_owned();
        assert_eq!(
            of("b.test").await.unwrap(),
            Some(Credentials::Identity { token })
        );
        assert_eq!(of("c.test").await.unwrap(), None);
        let error = of("d.test").await.unwrap_err().to_string();
        assert!(
            error.contains("`docker-credential-missing` is not on PATH"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_variable_goes_before_the_file() {
        let (_folder, mut settings) =
            settings(r#"{"auths": {"a.test": {"auth": "YTpi"}}}"#, "exit 1");
        settings.environment.insert(
            "DOCKER_AUTH_CONFIG".into(),
            r#"{"auths": {"a.test": {"auth": "YzpkZQ=="}}}"#.into(),
        );
        let found = credentials(&settings, "a.test").await.unwrap();
        assert_eq!(found, Some(password("c", "de")));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", password("me", "secret")), "Password");
    }
}
