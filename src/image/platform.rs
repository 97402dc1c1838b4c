//! Platforms, and which variant of an image suits one.

use serde::Deserialize;

use super::ImageError;
use super::config::nullable;

/// Operating system, architecture and its variant, by Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    #[serde(deserialize_with = "nullable")]
    pub(super) os: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) variant: String,
}

impl Platform {
    fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.into(),
        }
        .normal()
    }

    /// That of this machine.
    fn host() -> Self {
        let architecture = std::env::consts::ARCH;
        let variant = match architecture {
            "x86_64" => host_level(),
            _ => "",
        };
        Self::new("linux", architecture, variant)
    }

    /// Spelling variants made one; the variant that all have is left out.
    fn normal(mut self) -> Self {
        self.os.make_ascii_lowercase();
        self.architecture.make_ascii_lowercase();
        self.variant.make_ascii_lowercase();
        let (architecture, variant) = match self.architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", None),
            "x86" | "i386" | "i686" => ("386", None),
            "aarch64" => ("arm64", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            "powerpc64" | "powerpc64le" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        if let Some(variant) = variant {
            self.variant = variant.into();
        }
        self.architecture = architecture.to_owned();
        if self
            .variant
            .starts_with(|first: char| first.is_ascii_digit())
        {
            self.variant.insert(0, 'v');
        }
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("amd64", "v1") | ("arm64", "v8") => self.variant.clear(),
            ("arm", "") => self.variant = "v7".into(),
            _ => {}
        }
        self
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

/// The platform that is asked for, and what may stand in for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// As it was asked for; in the names of cache files, too.
    pub(super) name: String,
    /// Best first.
    accepted: Vec<Platform>,
    /// Asked for by name, so that even an image with one variant only must match.
    pub(super) explicit: bool,
}

impl Wanted {
    /// `platform`, as `linux/arm64` or `amd64`, or what runs on this machine.
    pub(super) fn parse(reference: &str, platform: Option<&str>) -> Result<Self, ImageError> {
        let Some(text) = platform.filter(|text| !text.is_empty()) else {
            let host = Platform::host();
            return Ok(Self {
                name: host.to_string(),
                accepted: stand_ins(&host, true),
                explicit: false,
            });
        };
        let parts: Vec<&str> = text.split('/').collect();
        let legible = parts.iter().all(|part| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            part.starts_with(|first: char| first.is_ascii_alphanumeric()) && part.bytes().all(plain)
        });
        let platform = match parts.as_slice() {
            _ if !legible => None,
            ["linux"] => Some(Platform::host()),
            [architecture] => Some(Platform::new("linux", architecture, "")),
            [os, architecture] => Some(Platform::new(os, architecture, "")),
            [os, architecture, variant] => Some(Platform::new(os, architecture, variant)),
            _ => None,
        };
        let platform = platform.ok_or_else(|| ImageError::NoPlatform {
            reference: reference.into(),
            platform: text.into(),
        })?;
        Ok(Self {
            name: platform.to_string(),
            accepted: stand_ins(&platform, false),
            explicit: true,
        })
    }

    /// How well `platform` suits, zero best; `None` if it does not.
    pub(super) fn rank(&self, platform: &Platform) -> Option<usize> {
        let platform = platform.clone().normal();
        self.accepted
            .iter()
            .position(|accepted| *accepted == platform)
    }
}

/// `platform`, then lower variants of it, then (if `older`) the 32-bit architecture that it runs, too.
fn stand_ins(platform: &Platform, older: bool) -> Vec<Platform> {
    let variants = |architecture: &str, from: &str, all: &[&str]| -> Vec<Platform> {
        let start = all.iter().position(|variant| *variant == from);
        match start {
            Some(start) => all[start..]
                .iter()
                .map(|variant| Platform::new(&platform.os, architecture, variant))
                .collect(),
            None => vec![Platform::new(&platform.os, architecture, from)],
        }
    };
    let mut accepted = match platform.architecture.as_str() {
        "amd64" => variants("amd64", &platform.variant, &["v4", "v3", "v2", ""]),
        "arm" => variants("arm", &platform.variant, &["v8", "v7", "v6", "v5"]),
        _ => vec![platform.clone()],
    };
    if older {
        match platform.architecture.as_str() {
            "amd64" => accepted.push(Platform::new(&platform.os, "386", "")),
            "arm64" => accepted.extend(variants("arm", "v8", &["v8", "v7", "v6", "v5"])),
            _ => {}
        }
    }
    accepted
}

/// The level of the x86-64 architecture that this processor reaches.
#[cfg(target_arch = "x86_64")]
fn host_level() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let second = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let third = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("movbe");
    match (second, third && has!("lzcnt") && has!("f16c")) {
        (true, true) => "v3",
        (true, false) => "v2",
        (false, _) => "",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_level() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(platform: &str) -> Wanted {
        Wanted::parse("x", Some(platform)).unwrap()
    }

    #[test]
    fn spellings_of_one_platform_are_equal() {
        for (left, right) in [
            ("linux/x86_64", "linux/amd64"),
            ("arm64", "linux/aarch64/v8"),
            ("linux/arm", "linux/arm/7"),
            ("armhf", "linux/arm/v7"),
        ] {
            assert_eq!(wanted(left), wanted(right), "{left} and {right}");
        }
    }

    #[test]
    fn a_named_platform_accepts_lower_variants_but_no_other_architecture() {
        let arm = wanted("linux/arm/v7");
        assert_eq!(arm.rank(&Platform::new("linux", "arm", "v7")), Some(0));
        assert_eq!(arm.rank(&Platform::new("linux", "arm", "v6")), Some(1));
        assert_eq!(arm.rank(&Platform::new("linux", "arm", "v8")), None);
        let amd64 = wanted("linux/amd64");
        assert_eq!(amd64.rank(&Platform::new("linux", "386", "")), None);
        assert_eq!(amd64.rank(&Platform::new("unknown", "unknown", "")), None);
    }

    #[test]
    fn the_machine_accepts_its_own_architecture() {
        let host = Wanted::parse("x", None).unwrap();
        assert!(!host.explicit);
        let plain = Platform::new("linux", std::env::consts::ARCH, "");
        assert!(host.rank(&plain).is_some());
    }

    #[test]
    fn nonsense_is_no_platform() {
        for text in ["a/b/c/d", "linux/", "../..", "linux/a b"] {
            assert!(Wanted::parse("x", Some(text)).is_err(), "{text}");
        }
    }
}
