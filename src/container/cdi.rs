//! Devices by name, as the Container Device Interface describes them: `vendor.com/class=name` in `devices`, and GPUs in `gpus`
//! and `deploy.resources.reservations.devices`.
//!
//! Whoever installs a device's driver also writes what a container needs for it, as nodes, mounts, variables and hooks, to
//! `/etc/cdi` or `/var/run/cdi`. See <https://github.com/cncf-tags/container-device-interface>, SPEC.md.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::ContainerError;
use crate::engine::spec::{Device, DeviceRule, SpecMount, devices};
use crate::model::{DeviceRequest, Service};

/// Where specifications are; those of the first folder count before those of the second.
const FOLDERS: [&str; 2] = ["/var/run/cdi", "/etc/cdi"];
/// Kinds of GPUs where no driver is named, by preference.
const GPUS: [&str; 2] = ["nvidia.com/gpu", "amd.com/gpu"];

/// What devices change of a container.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// `NAME=VALUE`.
    pub(super) environment: Vec<String>,
    pub(super) devices: Vec<Device>,
    pub(super) rules: Vec<DeviceRule>,
    pub(super) mounts: Vec<SpecMount>,
    /// OCI hooks by the point in a container's life.
    pub(super) hooks: Vec<(String, Value)>,
    pub(super) groups: Vec<u32>,
}

/// What the devices of a service change.
pub(super) fn edits(service: &Service) -> Result<Edits, ContainerError> {
    let folders = FOLDERS.map(PathBuf::from);
    edits_from(service, &folders)
}

fn edits_from(service: &Service, folders: &[PathBuf]) -> Result<Edits, ContainerError> {
    let wanted = wanted(service)?;
    let mut edits = Edits::default();
    if wanted.is_empty() {
        return Ok(edits);
    }
    let specifications = read(folders)?;
    // Edits of a whole specification are made once, however many of its devices are used.
    let mut general = Vec::new();
    for Wanted { attribute, name } in wanted {
        let name = match name {
            Name::Device(name) => name,
            Name::Gpu(id) => {
                let has = |kind: &&str| specifications.iter().any(|one| one.kind == *kind);
                let kind = GPUS.into_iter().find(has).unwrap_or(GPUS[0]);
                format!("{kind}={id}")
            }
        };
        let found = name.split_once('=').and_then(|(kind, device)| {
            specifications
                .iter()
                .enumerate()
                .filter(|(_, specification)| specification.kind == kind)
                .find_map(|(number, specification)| {
                    let mut devices = specification.devices.iter();
                    let device = devices.find(|known| known.name == device)?;
                    Some((number, specification, device))
                })
        });
        let (number, specification, device) = found.ok_or_else(|| {
            let mut reason = format!(
                "no CDI specification in {} has such a device",
                folders
                    .iter()
                    .map(|folder| folder.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" or ")
            );
            if name.starts_with("nvidia.com/") {
                reason +=
                    "; `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` writes NVIDIA's";
            }
            ContainerError::invalid(attribute, name, reason)
        })?;
        device.edits.apply(&mut edits)?;
        if !general.contains(&number) {
            general.push(number);
            specification.edits.apply(&mut edits)?;
        }
    }
    Ok(edits)
}

/// Whether an item of `devices` is the name of a CDI device and not a path.
pub(super) fn is_name(source: &str) -> bool {
    let parts = source
        .split_once('=')
        .and_then(|(kind, name)| Some((kind.split_once('/')?, name)));
    parts.is_some_and(|((vendor, class), name)| {
        !vendor.is_empty() && !class.is_empty() && !name.is_empty()
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    attribute: &'static str,
    name: Name,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// `vendor.com/class=name`.
    Device(String),
    /// Number or other name of a GPU of whatever vendor.
    Gpu(String),
}

fn wanted(service: &Service) -> Result<Vec<Wanted>, ContainerError> {
    let mut wanted = Vec::new();
    for mapping in service.devices.iter().filter(|one| is_name(&one.source)) {
        wanted.push(Wanted {
            attribute: "devices",
            name: Name::Device(mapping.source.clone()),
        });
    }
    let resources = service.deploy.as_ref().map(|deploy| &deploy.resources);
    let reserved = resources.and_then(|resources| resources.reservations.as_ref());
    let reserved = reserved.into_iter().flat_map(|reserved| &reserved.devices);
    let requests = service
        .gpus
        .iter()
        .map(|request| ("gpus", request))
        .chain(reserved.map(|request| ("deploy.resources.reservations.devices", request)));
    for (attribute, request) in requests {
        let names = requested(attribute, request)?.into_iter();
        wanted.extend(names.map(|name| Wanted { attribute, name }));
    }
    Ok(wanted)
}

fn requested(
    attribute: &'static str,
    request: &DeviceRequest,
) -> Result<Vec<Name>, ContainerError> {
    let driver = request.driver.as_deref().unwrap_or_default();
    let ids: Vec<String> = match (request.count, request.device_ids.as_slice()) {
        (_, ids @ [_, ..]) => ids.to_vec(),
        (None | Some(-1), []) => vec!["all".into()],
        (Some(count), []) => (0..count).map(|number| number.to_string()).collect(),
    };
    let of_kind = |kind: &'static str| move |id| Name::Device(format!("{kind}={id}"));
    let gpu = |name: &String| name == "gpu" || name == "nvidia";
    Ok(match driver {
        "cdi" => ids.into_iter().map(Name::Device).collect(),
        "nvidia" => ids.into_iter().map(of_kind(GPUS[0])).collect(),
        "amd" => ids.into_iter().map(of_kind(GPUS[1])).collect(),
        "" if attribute == "gpus" || request.capabilities.iter().any(gpu) => {
            ids.into_iter().map(Name::Gpu).collect()
        }
        _ => {
            let reason = format!(
                "no driver gives the capabilities {:?}; drivers are `nvidia`, `amd` and `cdi`",
                request.capabilities
            );
            return Err(ContainerError::invalid(attribute, driver, reason));
        }
    })
}

/// A file of devices of one kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Specification {
    kind: String,
    devices: Vec<DescribedDevice>,
    #[serde(rename = "containerEdits")]
    edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DescribedDevice {
    name: String,
    #[serde(rename = "containerEdits")]
    edits: ContainerEdits,
}

/// `containerEdits`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mounted>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    r#type: Option<char>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mounted {
    host_path: PathBuf,
    container_path: PathBuf,
    r#type: Option<String>,
    options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hook {
    #[serde(rename = "hookName")]
    point: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<u32>,
}

/// All specifications, those that count first before the others. JSON is YAML, too.
fn read(folders: &[PathBuf]) -> Result<Vec<Specification>, ContainerError> {
    let mut specifications = Vec::new();
    for folder in folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.retain(|file| {
            let extension = file.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("json" | "yaml" | "yml"))
        });
        files.sort();
        for file in files {
            let failed = |error| {
                ContainerError::io(format!("read CDI specification {}", file.display()))(error)
            };
            let text = std::fs::read_to_string(&file).map_err(failed)?;
            let read = serde_yaml::from_str(&text);
            specifications.push(read.map_err(|error| failed(std::io::Error::other(error)))?);
        }
    }
    Ok(specifications)
}

impl ContainerEdits {
    fn apply(&self, edits: &mut Edits) -> Result<(), ContainerError> {
        for variable in &self.env {
            super::environment::set(&mut edits.environment, variable.clone());
        }
        for node in &self.device_nodes {
            let access = node
                .permissions
                .as_deref()
                .filter(|access| !access.is_empty());
            let access = devices::parse_access("devices", access.unwrap_or("rwm"))?;
            for device in node.devices()? {
                edits.rules.push(device.rule(&access));
                edits.devices.retain(|known| known.path != device.path);
                edits.devices.push(device);
            }
        }
        edits
            .mounts
            .extend(self.mounts.iter().map(Mounted::to_spec));
        for hook in &self.hooks {
            edits.hooks.push((hook.point.clone(), hook.to_json()));
        }
        edits.groups.extend(&self.additional_gids);
        Ok(())
    }
}

impl Node {
    fn devices(&self) -> Result<Vec<Device>, ContainerError> {
        let host = self.host_path.as_deref().unwrap_or(&self.path);
        let mut found = match (self.r#type, self.major, self.minor) {
            (Some(kind @ ('c' | 'b')), Some(major), Some(minor)) => vec![Device {
                path: self.path.clone(),
                kind,
                major,
                minor,
                mode: 0o660,
                uid: 0,
                gid: 0,
            }],
            _ => devices::from_host(host, &self.path)?,
        };
        for device in &mut found {
            device.mode = self.file_mode.unwrap_or(device.mode);
            device.uid = self.uid.unwrap_or(device.uid);
            device.gid = self.gid.unwrap_or(device.gid);
        }
        Ok(found)
    }
}

impl Mounted {
    fn to_spec(&self) -> SpecMount {
        let mut options = self.options.clone();
        let kind = self.r#type.clone().unwrap_or_else(|| "bind".into());
        let bind = |option: &String| option == "bind" || option == "rbind";
        if kind == "bind" && !options.iter().any(bind) {
            options.push("rbind".into());
        }
        SpecMount {
            destination: self.container_path.clone(),
            kind,
            source: self.host_path.to_string_lossy().into_owned(),
            options,
        }
    }
}

impl Hook {
    fn to_json(&self) -> Value {
        let mut hook = serde_json::json!({ "path": self.path });
        if !self.args.is_empty() {
            hook["args"] = self.args.clone().into();
        }
        if !self.env.is_empty() {
            hook["env"] = self.env.clone().into();
        }
        if let Some(timeout) = self.timeout {
            hook["timeout"] = timeout.into();
        }
        hook
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceMapping;

    const FAKE: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/fake
containerEdits:
  env: ["FAKE=all"]
devices:
  - name: one
    containerEdits:
      env: ["ONE=1"]
      deviceNodes:
        - {path: /dev/fake, hostPath: /dev/null, permissions: rw, fileMode: 0o640, gid: 44}
        - {path: /dev/made, type: c, major: 1, minor: 5}
      mounts: [{hostPath: /etc/hostname, containerPath: /fake, options: [ro]}]
      hooks: [{hookName: createContainer, path: /bin/true, args: ["true", "x"]}]
      additionalGids: [44]
"#;

    fn device(source: &str) -> Service {
        Service {
            devices: vec![DeviceMapping {
                source: source.into(),
                target: None,
                permissions: None,
            }],
            ..Service::default()
        }
    }

    fn folder(name: &str, text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), text).unwrap();
        folder
    }

    #[test]
    fn a_device_brings_all_that_its_specification_says() {
        let folder = folder("fake.yaml", FAKE);
        let edits = edits_from(&device("vendor.com/fake=one"), &[folder.path().into()]).unwrap();
        assert_eq!(edits.environment, ["ONE=1", "FAKE=all"]);
        let [fake, made] = edits.devices.as_slice() else {
            panic!("{edits:?}")
        };
        assert_eq!(
            (
                fake.path.to_str(),
                fake.major,
                fake.minor,
                fake.mode,
                fake.gid
            ),
            (Some("/dev/fake"), 1, 3, 0o640, 44)
        );
        assert_eq!((made.major, made.minor), (1, 5));
        assert_eq!(edits.rules[0].access, "rw");
        assert_eq!(edits.mounts[0].options, ["ro", "rbind"]);
        assert_eq!(edits.hooks[0].0, "createContainer");
        assert_eq!(edits.groups, [44]);
    }

    #[test]
    fn what_is_nowhere_described_is_an_error_that_says_where_was_looked() {
        let folder = folder("fake.yaml", FAKE);
        let folders = [folder.path().to_path_buf()];
        let error = edits_from(&device("vendor.com/fake=two"), &folders).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`vendor.com/fake=two`"), "{text}");
        assert!(
            text.contains(&folder.path().display().to_string()),
            "{text}"
        );
        let gpu = Service {
            gpus: vec![DeviceRequest::default()],
            ..Service::default()
        };
        let text = edits_from(&gpu, &folders).unwrap_err().to_string();
        assert!(
            text.contains("`nvidia.com/gpu=all`") && text.contains("nvidia-ctk"),
            "{text}"
        );
    }

    #[test]
    fn a_damaged_specification_is_named() {
        let folder = folder("bad.json", "{");
        let error = edits_from(&device("a.b/c=d"), &[folder.path().into()]).unwrap_err();
        assert!(error.to_string().contains("bad.json"), "{error}");
        assert!(edits_from(&Service::default(), &[folder.path().into()]).is_ok());
    }

    #[test]
    fn gpus_are_of_the_vendor_that_describes_some() {
        let amd = "{\"kind\": \"amd.com/gpu\", \"devices\": [{\"name\": \"0\"}, {\"name\": \"1\", \"containerEdits\": {\"env\": [\"GPU=1\"]}}]}";
        let folder = folder("amd.json", amd);
        let gpus = Service {
            gpus: vec![DeviceRequest {
                count: Some(2),
                ..DeviceRequest::default()
            }],
            ..Service::default()
        };
        let edits = edits_from(&gpus, &[folder.path().into()]).unwrap();
        assert_eq!(edits.environment, ["GPU=1"]);
    }

    #[test]
    fn a_request_names_its_devices() {
        let names = |request: DeviceRequest| {
            requested("deploy.resources.reservations.devices", &request)
                .map_err(|error| error.to_string())
        };
        let ids = |driver: &str, ids: &[&str]| DeviceRequest {
            driver: Some(driver.into()),
            device_ids: ids.iter().map(ToString::to_string).collect(),
            ..DeviceRequest::default()
        };
        assert_eq!(
            names(ids("nvidia", &["0", "GPU-x"])).unwrap(),
            ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-x"].map(|name| Name::Device(name.into()))
        );
        assert_eq!(
            names(ids("cdi", &["a.b/c=d"])).unwrap(),
            [Name::Device("a.b/c=d".into())]
        );
        let tpu = DeviceRequest {
            capabilities: vec!["tpu".into()],
            ..DeviceRequest::default()
        };
        assert!(names(tpu).unwrap_err().contains("tpu"));
    }

    #[test]
    fn a_name_is_told_from_a_path() {
        assert!(is_name("vendor.com/class=name"));
        for path in ["/dev/null", "dev", "a=b", "a/b", "/x=y", "a/=c"] {
            assert!(!is_name(path), "{path}");
        }
    }
}
