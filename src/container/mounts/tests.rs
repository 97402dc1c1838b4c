use proptest::prelude::*;

use super::*;
use crate::image::{Image, ImageConfig};
use crate::model::{BindOptions, Project, Service, TmpfsOptions, Volume, VolumeOptions};

struct World {
    _folder: tempfile::TempDir,
    state: StateRoot,
    project: Project,
    image: Image,
    desired: Desired,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut project = Project {
            name: "shop".into(),
            working_dir: folder.path().join("project"),
            ..Project::default()
        };
        let volume = |name: &str, external| Volume {
            name: name.into(),
            external,
            ..Volume::default()
        };
        project
            .volumes
            .insert("data".into(), volume("shop_data", false));
        project
            .volumes
            .insert("outer".into(), volume("outer", true));
        Self {
            state: StateRoot::new(Some(folder.path())),
            _folder: folder,
            project,
            image: Image {
                config: ImageConfig {
                    volumes: vec!["/var/lib/db/".into()],
                    ..ImageConfig::default()
                },
                ..Image::default()
            },
            desired: Desired::default(),
        }
    }

    fn plan(
        &self,
        service: &Service,
        inherits: Option<&ContainerRecord>,
        volumes_from: &[ContainerRecord],
    ) -> Result<Planned, ContainerError> {
        let creation = Creation {
            project: &self.project,
            service,
            desired: &self.desired,
            image: &self.image,
            sandbox: None,
            parents: &BTreeMap::new(),
            volumes_from,
            inherits,
            lease: "",
        };
        let mut planned = Planned::default();
        plan(&self.state, &creation, &mut planned).map(|()| planned)
    }
}

fn mount(kind: MountKind, source: Option<&str>, target: &str) -> Mount {
    Mount {
        kind,
        source: source.map(Into::into),
        target: target.into(),
        ..Mount::default()
    }
}

fn service(volumes: Vec<Mount>) -> Service {
    Service {
        name: "web".into(),
        volumes,
        ..Service::default()
    }
}

fn at<'a>(planned: &'a Planned, destination: &str) -> &'a MountRecord {
    let mut records = planned.records.iter();
    records
        .find(|record| record.destination == Path::new(destination))
        .unwrap()
}

#[test]
fn volumes_of_the_image_are_anonymous_unless_covered() {
    let world = World::new();
    let planned = world.plan(&service(Vec::new()), None, &[]).unwrap();
    let record = at(&planned, "/var/lib/db");
    assert!(record.anonymous && record.name.as_ref().is_some_and(|name| name.len() == 64));
    assert_eq!(planned.made.len(), 1);
    assert_eq!(planned.fills.len(), 1);

    let covered = service(vec![mount(MountKind::Volume, Some("data"), "/var/lib/db")]);
    let planned = world.plan(&covered, None, &[]).unwrap();
    assert_eq!(planned.records.len(), 1);
    assert_eq!(planned.records[0].name.as_deref(), Some("shop_data"));
}

#[test]
fn anonymous_volumes_are_kept_over_a_recreate() {
    let world = World::new();
    let first = world.plan(&service(Vec::new()), None, &[]).unwrap();
    let desired = Desired {
        anonymous_volumes: first.anonymous.clone(),
        ..Desired::default()
    };
    let mut old = ContainerRecord::default();
    let json = serde_json::to_vec(&desired).unwrap();
    old.extensions
        .insert(super::super::DESIRED_EXTENSION.into(), json);
    let second = world.plan(&service(Vec::new()), Some(&old), &[]).unwrap();
    assert_eq!(second.anonymous, first.anonymous);
    assert!(second.made.is_empty());
}

#[test]
fn an_external_volume_must_exist_and_others_are_made_with_labels() {
    let world = World::new();
    let outer = service(vec![mount(MountKind::Volume, Some("outer"), "/o")]);
    assert!(matches!(
        world.plan(&outer, None, &[]),
        Err(ContainerError::MissingVolume { volume }) if volume == "outer"
    ));
    let data = service(vec![mount(MountKind::Volume, Some("data"), "/d")]);
    world.plan(&data, None, &[]).unwrap();
    let record = volume::find(&world.state, "shop_data").unwrap().unwrap();
    assert_eq!(record.labels[label::VOLUME], "data");
    assert!(!record.anonymous);
}

#[test]
fn a_missing_bind_source_is_made_unless_forbidden() {
    let world = World::new();
    std::fs::create_dir(&world.project.working_dir).unwrap();
    let mut bind = mount(MountKind::Bind, Some("./src/app"), "/app");
    bind.read_only = true;
    let planned = world.plan(&service(vec![bind.clone()]), None, &[]).unwrap();
    let record = at(&planned, "/app");
    assert!(world.project.working_dir.join("src/app").is_dir());
    assert_eq!(record.propagation, "rprivate");
    assert!(record.options.contains(&"rbind".into()) && record.read_only);

    bind.source = Some("./other".into());
    bind.bind = Some(BindOptions {
        create_host_path: Some(false),
        ..BindOptions::default()
    });
    assert!(matches!(
        world.plan(&service(vec![bind]), None, &[]),
        Err(ContainerError::MissingSource { .. })
    ));
}

#[test]
fn a_subpath_stays_inside_the_volume() {
    let world = World::new();
    let mut volume = mount(MountKind::Volume, Some("data"), "/d");
    world
        .plan(&service(vec![volume.clone()]), None, &[])
        .unwrap();
    let data = world.state.volume("shop_data").join("_data");
    std::fs::create_dir_all(data.join("etc/real")).unwrap();
    std::os::unix::fs::symlink("/etc/real", data.join("link")).unwrap();
    volume.volume = Some(VolumeOptions {
        subpath: Some("link".into()),
        ..VolumeOptions::default()
    });
    let planned = world
        .plan(&service(vec![volume.clone()]), None, &[])
        .unwrap();
    assert_eq!(at(&planned, "/d").source, data.join("etc/real"));
    volume.volume = Some(VolumeOptions {
        subpath: Some("nothing".into()),
        ..VolumeOptions::default()
    });
    assert!(matches!(
        world.plan(&service(vec![volume]), None, &[]),
        Err(ContainerError::MissingSource { .. })
    ));
}

#[test]
fn volumes_from_brings_all_but_tmpfs_and_own_mounts_win() {
    let world = World::new();
    let provision = Provision {
        mounts: vec![
            tmpfs_entry("/t").unwrap(),
            MountRecord {
                kind: "bind".into(),
                source: "/srv".into(),
                destination: "/srv".into(),
                options: vec!["rbind".into()],
                ..MountRecord::default()
            },
            MountRecord {
                kind: "bind".into(),
                source: "/old".into(),
                destination: "/own".into(),
                ..MountRecord::default()
            },
        ],
        ..Provision::default()
    };
    let mut donor = ContainerRecord::default();
    let json = serde_json::to_vec(&provision).unwrap();
    donor
        .extensions
        .insert(super::super::provision::EXTENSION.into(), json);
    donor.labels.insert(label::SERVICE.into(), "donor".into());
    let mut other = ContainerRecord::default();
    other.labels.insert(label::NAME.into(), "alone".into());
    let service = Service {
        tmpfs: vec!["/own".into()],
        volumes_from: vec!["donor:ro".into()],
        ..Service::default()
    };
    let planned = world.plan(&service, None, &[other, donor]).unwrap();
    assert!(at(&planned, "/srv").read_only);
    assert!(at(&planned, "/srv").options.contains(&"ro".into()));
    assert_eq!(at(&planned, "/own").kind, "tmpfs");
    assert!(
        !planned
            .records
            .iter()
            .any(|record| record.destination == Path::new("/t"))
    );
}

#[test]
fn options_of_a_tmpfs_replace_their_opposites() {
    let record = tmpfs_entry("/x:exec,size=1m,mode=700,uid=5,size=2m,ro").unwrap();
    assert_eq!(
        record.options,
        [
            "nosuid", "nodev", "rprivate", "exec", "mode=700", "uid=5", "size=2m", "ro"
        ]
    );
    assert!(record.read_only);
    for entry in ["/x:foo=1", "/x:size", "x", "/"] {
        assert!(tmpfs_entry(entry).is_err(), "{entry}");
    }
    let mut long = mount(MountKind::Tmpfs, None, "/y");
    long.tmpfs = Some(TmpfsOptions {
        size: Some(1024),
        mode: Some(0o700),
    });
    let record = tmpfs(&long, "/y".into()).unwrap();
    assert_eq!(
        record.options,
        [
            "noexec",
            "nosuid",
            "nodev",
            "rprivate",
            "size=1024",
            "mode=700"
        ]
    );
}

#[test]
fn what_cannot_be_mounted_is_an_error() {
    let world = World::new();
    for bad in [
        mount(MountKind::Npipe, Some("x"), "/x"),
        mount(MountKind::Cluster, Some("x"), "/x"),
        mount(MountKind::Bind, None, "/x"),
        mount(MountKind::Volume, Some("../x"), "/x"),
        mount(MountKind::Volume, None, "relative"),
        mount(MountKind::Volume, None, "/a/.."),
    ] {
        assert!(
            world.plan(&service(vec![bad.clone()]), None, &[]).is_err(),
            "{bad:?}"
        );
    }
}

proptest! {
    #[test]
    fn a_clean_target_is_absolute_and_has_no_dots(target in "(/|\\.|a|b){0,12}") {
        if let Ok(clean) = clean_target("volumes", &target) {
            prop_assert!(clean.is_absolute());
            prop_assert!(clean.components().all(|part| part != Component::ParentDir));
            prop_assert_ne!(clean, Path::new("/"));
        }
    }
}
