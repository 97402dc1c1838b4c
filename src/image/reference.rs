//! Names of images: Docker's short forms and archives.

use std::path::{Path, PathBuf};

use super::ImageError;
use super::name::Reference;

pub(super) const ARCHIVE_PREFIX: &str = "oci-archive:";

/// What an image reference means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Records of containerd that are the image, best first.
    Names(Vec<Name>),
    Archive(ArchiveReference),
}

/// A name under which an image may be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) record: String,
    digest: Option<String>,
}

impl Name {
    /// Whether the record may point there.
    pub(super) fn allows(&self, target: &str) -> bool {
        self.digest.as_deref().is_none_or(|digest| digest == target)
    }
}

/// `oci-archive:PATH[:NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArchiveReference {
    pub(super) path: PathBuf,
    /// Which image of an archive with several.
    pub(super) name: Option<String>,
}

impl Source {
    pub(super) fn parse(reference: &str, directory: &Path) -> Result<Self, ImageError> {
        if let Some(rest) = reference.strip_prefix(ARCHIVE_PREFIX) {
            let invalid = || ImageError::InvalidReference {
                reference: reference.into(),
                source: "the path of the archive is missing".into(),
            };
            return ArchiveReference::parse(rest, directory)
                .map(Self::Archive)
                .ok_or_else(invalid);
        }
        let parsed = parse_reference(reference)?;
        let name = |record: String, digest: Option<&str>| Name {
            record,
            digest: digest.map(ToOwned::to_owned),
        };
        let mut names = vec![name(parsed.whole(), parsed.digest.as_deref())];
        if let Some(digest) = parsed.digest.as_deref() {
            let repository = format!("{}/{}", parsed.registry, parsed.repository);
            // Both are common ways to record an image that was pulled by digest.
            names.push(name(format!("{repository}@{digest}"), Some(digest)));
            if let Some(tag) = &parsed.tag {
                names.push(name(format!("{repository}:{tag}"), Some(digest)));
            }
        }
        names.dedup();
        Ok(Self::Names(names))
    }
}

impl ArchiveReference {
    fn parse(text: &str, directory: &Path) -> Option<Self> {
        let path = directory.join(text);
        // A colon may belong to the file name.
        if !path.exists()
            && let Some((file, name)) = text.split_once(':')
            && !file.is_empty()
            && !name.is_empty()
        {
            return Some(Self {
                path: directory.join(file),
                name: Some(name.into()),
            });
        }
        (!text.is_empty()).then_some(Self { path, name: None })
    }

    /// Name for an image that bears none: `localhost/<file name>:latest`.
    pub(super) fn default_name(&self) -> String {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let mut stem = file.as_ref();
        for ending in [".gz", ".tgz", ".tar", ".oci"] {
            stem = stem.strip_suffix(ending).unwrap_or(stem);
        }
        let mut name = String::new();
        for character in stem.chars().map(|character| character.to_ascii_lowercase()) {
            if character.is_ascii_alphanumeric() {
                name.push(character);
            } else if !name.is_empty() && !name.ends_with('-') {
                name.push('-');
            }
        }
        let name = name.trim_end_matches('-');
        let name = if name.is_empty() { "image" } else { name };
        format!("localhost/{name}:latest")
    }
}

pub(super) fn parse_reference(reference: &str) -> Result<Reference, ImageError> {
    Reference::parse(reference).map_err(|error| ImageError::InvalidReference {
        reference: reference.into(),
        source: Box::new(error),
    })
}

/// The normal form of a name that says its registry, as `ghcr.io/a/b:1`; `None` for a mere tag or a short name.
pub(super) fn full_name(name: &str) -> Option<String> {
    let (registry, _rest) = name.split_once('/')?;
    if !(registry.contains(['.', ':']) || registry == "localhost") {
        return None;
    }
    Reference::parse(name).ok().map(|name| name.whole())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(reference: &str) -> Vec<String> {
        match Source::parse(reference, Path::new("/project")).unwrap() {
            Source::Names(names) => names.into_iter().map(|name| name.record).collect(),
            Source::Archive(archive) => panic!("{archive:?}"),
        }
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        assert_eq!(records("busybox"), ["docker.io/library/busybox:latest"]);
        assert_eq!(records("a/b:1"), ["docker.io/a/b:1"]);
        assert_eq!(records("localhost/x"), ["localhost/x:latest"]);
        assert_eq!(records("ghcr.io:443/a/b"), ["ghcr.io:443/a/b:latest"]);
    }

    #[test]
    fn a_tag_beside_a_digest_counts_only_with_that_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference = format!("busybox:1@{digest}");
        let Source::Names(names) = Source::parse(&reference, Path::new("/")).unwrap() else {
            panic!("not an archive");
        };
        let last = names.last().unwrap();
        assert_eq!(last.record, "docker.io/library/busybox:1");
        assert!(last.allows(&digest));
        assert!(!last.allows("sha256:other"));
    }

    #[test]
    fn an_archive_is_relative_to_the_project() {
        let parse = |text| Source::parse(text, Path::new("/project")).unwrap();
        let archive = |path: &str, name: Option<&str>| {
            Source::Archive(ArchiveReference {
                path: path.into(),
                name: name.map(Into::into),
            })
        };
        assert_eq!(parse("oci-archive:a.tar"), archive("/project/a.tar", None));
        assert_eq!(
            parse("oci-archive:/a.tar:web:1"),
            archive("/a.tar", Some("web:1"))
        );
        assert!(Source::parse("oci-archive:", Path::new("/")).is_err());
    }

    #[test]
    fn a_nameless_image_is_called_after_its_file() {
        let name = |path: &str| {
            ArchiveReference {
                path: path.into(),
                name: None,
            }
            .default_name()
        };
        assert_eq!(name("/x/My App_1.tar.gz"), "localhost/my-app-1:latest");
        assert_eq!(name("/x/..."), "localhost/image:latest");
    }

    #[test]
    fn only_a_name_with_a_registry_is_full() {
        assert_eq!(full_name("latest"), None);
        assert_eq!(full_name("library/busybox"), None);
        assert_eq!(
            full_name("docker.io/a/b").as_deref(),
            Some("docker.io/a/b:latest")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _any = Source::parse(&text, Path::new("/project"));
            let name = ArchiveReference { path: text.into(), name: None }.default_name();
            proptest::prop_assert!(parse_reference(&name).is_ok());
        }
    }
}
