//! What `logging` says of the drivers that send, in Docker's words.

use thiserror::Error;

use super::wire::Address;
use super::{About, Encoder, journald, syslog};
use crate::model::{Logging, parse_bytes};
use crate::template::Template;

/// `logging` has something that its driver cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{attribute}: `{value}` is not valid: {reason}")]
pub struct InvalidLogging {
    /// As `logging.options.tag`.
    pub attribute: String,
    pub value: String,
    pub reason: String,
}

/// Where the output of a container is sent.
#[derive(Clone, Debug)]
pub struct Destination {
    pub(super) address: Address,
    pub(super) tag: Template,
    /// Rather lose a line than hold the container up.
    pub(super) hurry: bool,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Syslog {
        facility: u8,
        format: syslog::Format,
    },
    Journald {
        fields: journald::Extra,
    },
}

/// Options of the log that is kept here, which every driver has.
const KEPT: [&str; 7] = [
    "mode",
    "max-buffer-size",
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
    "tag",
];

fn invalid(option: &str, value: &str, reason: impl Into<String>) -> InvalidLogging {
    InvalidLogging {
        attribute: format!("logging.options.{option}"),
        value: value.into(),
        reason: reason.into(),
    }
}

impl Destination {
    /// What a service says; `None` for drivers that send nothing.
    pub fn new(logging: &Logging) -> Result<Option<Self>, InvalidLogging> {
        let driver = logging.driver.as_deref().unwrap_or_default();
        let own: &[&str] = match driver {
            "syslog" => &["syslog-address", "syslog-facility", "syslog-format"],
            "journald" => &["labels", "labels-regex", "env", "env-regex"],
            _ => return Ok(None),
        };
        if let Some((name, value)) = logging
            .options
            .iter()
            .find(|(name, _)| !own.contains(&name.as_str()) && !KEPT.contains(&name.as_str()))
        {
            let known: Vec<_> = own.iter().chain(&KEPT).copied().collect();
            let reason = format!("options of `{driver}` are {}", known.join(", "));
            return Err(invalid(name, value, reason));
        }
        let option = |name: &str| logging.options.get(name).map_or("", String::as_str);
        let hurry = match option("mode") {
            "" | "blocking" => false,
            "non-blocking" => true,
            other => {
                let reason = "it is `blocking` or `non-blocking`";
                return Err(invalid("mode", other, reason));
            }
        };
        for name in ["max-buffer-size", "cache-max-size"] {
            let size = option(name);
            if !size.is_empty() && parse_bytes(size).is_err() {
                return Err(invalid(name, size, "it is a size such as `4m`"));
            }
        }
        let tag = match option("tag") {
            "" => "{{.ID}}",
            tag => tag,
        };
        let template = Template::parse(tag).and_then(|template| {
            // Fields that do not exist are found by using it.
            template.render(&About::default().fields(), &serde_json::Map::new())?;
            Ok(template)
        });
        let template = template.map_err(|error| invalid("tag", tag, error.to_string()))?;
        let (address, kind) = if driver == "syslog" {
            let address = option("syslog-address");
            let parsed = Address::parse(address)
                .map_err(|reason| invalid("syslog-address", address, reason))?;
            let facility = option("syslog-facility");
            let format = option("syslog-format");
            let kind = Kind::Syslog {
                facility: syslog::facility(facility)
                    .ok_or_else(|| invalid("syslog-facility", facility, "there is no such one"))?,
                format: syslog::Format::parse(format).ok_or_else(|| {
                    let reason = "it is `rfc3164`, `rfc5424` or `rfc5424micro`";
                    invalid("syslog-format", format, reason)
                })?,
            };
            (parsed, kind)
        } else {
            let chosen = |list: &str, pattern: &str| {
                let text = option(pattern);
                let chosen = journald::Names::new(option(list), text);
                chosen.map_err(|error| invalid(pattern, text, error.to_string()))
            };
            let fields = journald::Extra {
                labels: chosen("labels", "labels-regex")?,
                variables: chosen("env", "env-regex")?,
            };
            (journald::address(), Kind::Journald { fields })
        };
        Ok(Some(Self {
            address,
            tag: template,
            hurry,
            kind,
        }))
    }

    /// Refuses what cannot work on this host, whatever happens later.
    pub fn check(&self) -> Result<(), InvalidLogging> {
        if matches!(self.kind, Kind::Journald { .. }) && !journald::is_there() {
            return Err(InvalidLogging {
                attribute: "logging.driver".into(),
                value: "journald".into(),
                reason: "the journal does not run on this host".into(),
            });
        }
        Ok(())
    }

    pub(super) fn encoder(&self, about: &About, tag: String) -> Encoder {
        match &self.kind {
            Kind::Syslog { facility, format } => {
                Encoder::Syslog(syslog::Encoder::new(*facility, *format, tag))
            }
            Kind::Journald { fields } => {
                Encoder::Journald(journald::Encoder::new(about, tag, fields))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(driver: &str, options: &[(&str, &str)]) -> Result<Option<Destination>, String> {
        let pairs = options
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let logging = Logging {
            driver: Some(driver.into()),
            options: pairs.collect(),
        };
        Destination::new(&logging).map_err(|error| error.to_string())
    }

    #[test]
    fn drivers_that_keep_logs_here_send_nothing() {
        for driver in ["json-file", "local", "none", "gelf"] {
            assert!(parsed(driver, &[("anything", "1")]).unwrap().is_none());
        }
        assert!(parsed("syslog", &[]).unwrap().is_some());
        let options = [("tag", "{{.DaemonName}}/{{.Name}}"), ("labels", "tier")];
        assert!(parsed("journald", &options).unwrap().is_some());
        let error = parsed("journald", &[("env-regex", "(")]).unwrap_err();
        assert!(error.starts_with("logging.options.env-regex: `(` is not valid: "));
    }

    #[test]
    fn a_wrong_option_is_named_with_what_it_may_be() {
        let wrong = [
            ("syslog-adress", "udp://a", "syslog-address"),
            ("syslog-address", "carrier-pigeon://a", "unixgram"),
            ("syslog-address", "tcp+tls://a", "TLS"),
            ("syslog-address", "udp://a:b", "port"),
            ("syslog-facility", "kitchen", "no such"),
            ("syslog-format", "rfc1", "rfc5424micro"),
            ("tag", "{{.Nmae}}", "Nmae"),
            ("tag", "{{.Name", "complete"),
            ("mode", "fast", "non-blocking"),
            ("max-buffer-size", "much", "4m"),
        ];
        for (name, value, reason) in wrong {
            let error = parsed("syslog", &[(name, value)]).unwrap_err();
            let expected = format!("logging.options.{name}: `{value}` is not valid: ");
            assert!(error.starts_with(&expected), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }
}
