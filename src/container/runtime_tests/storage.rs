//! Volumes, images, configs and secrets.

use std::os::unix::fs::MetadataExt as _;

use super::*;

#[tokio::test]
async fn secrets_are_readable_for_their_owner_and_are_nowhere_else() {
    let mut bench = Bench::start().await;
    let token = Secret {
        environment: Some("TOKEN".into()),
        ..Secret::default()
    };
    bench.project.secrets.insert("token".into(), token);
    std::fs::write(bench.world.path("app.conf"), "from file\n").unwrap();
    let app = Config {
        file: Some("app.conf".into()),
        ..Config::default()
    };
    bench.project.configs.insert("app".into(), app);
    patiently(Box::pin(async {
        let service = Service {
            user: Some("1000:2000".into()),
            read_only: true,
            secrets: vec![secret(None, "1000", "5", 0o400), secret(Some("/etc/deep/key"), "7", "7", 0o400)],
            configs: vec![FileReference {
                source: "app".into(),
                target: Some("/etc/app.conf".into()),
                ..FileReference::default()
            }],
            ..script(
                "cat /run/secrets/token; echo; busybox stat -c '%u %g %a %n' /run/secrets/token /etc/deep/key /etc/app.conf; \
                 cat /etc/deep/key; cat /etc/app.conf; echo x > /run/secrets/token; busybox id",
            )
        };
        let id = bench.create(&service).await.unwrap();
        let Run { output, .. } = bench.run(&id).await;
        assert!(output.starts_with(SECRET), "{output}");
        for expected in [
            "1000 5 400 /run/secrets/token",
            "7 7 400 /etc/deep/key",
            "1000 2000 444 /etc/app.conf",
            "from file",
            "can't open '/etc/deep/key': Permission denied",
            "/run/secrets/token: Read-only file system",
            "uid=1000 gid=2000 groups=2000",
        ] {
            assert!(output.contains(expected), "`{expected}` is not in {output}");
        }

        let record = bench.world.engine.container(&id).await.unwrap().unwrap();
        assert!(!format!("{record:?}").contains(SECRET));
        assert!(!String::from_utf8_lossy(&record.spec).contains(SECRET));
        for value in record.extensions.values() {
            assert!(!String::from_utf8_lossy(value).contains(SECRET));
        }
        assert_eq!(files_with_secret(bench.world.root()), Vec::<String>::new());

        std::fs::write(bench.world.path("app.conf"), "changed\n").unwrap();
        let Run { output, .. } = bench.run(&id).await;
        assert!(output.starts_with(SECRET) && output.contains("changed"), "{output}");
        bench.containers.remove(&id, true).await.unwrap();
    }))
    .await;
    bench.finish().await;
}

/// Files on the disk below `root` (not in other file systems) that contain the secret.
fn files_with_secret(root: &Path) -> Vec<String> {
    let device = std::fs::metadata(root).unwrap().dev();
    let mut found = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(stat) = std::fs::symlink_metadata(entry.path()) else {
                continue;
            };
            if stat.dev() != device {
                continue;
            }
            if stat.is_dir() {
                pending.push(entry.path());
            } else if stat.is_file() && stat.len() < 1 << 20 {
                let content = std::fs::read(entry.path()).unwrap_or_default();
                if content
                    .windows(SECRET.len())
                    .any(|window| window == SECRET.as_bytes())
                {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn a_volume_takes_the_images_content_once_and_keeps_what_is_written() {
    let mut bench = Bench::start().await;
    let data = Volume {
        name: "shop_data".into(),
        ..Volume::default()
    };
    bench.project.volumes.insert("data".into(), data);
    patiently(Box::pin(async {
        let mut nocopy = volume(None, "/hidden");
        nocopy.volume = Some(VolumeOptions {
            nocopy: true,
            ..VolumeOptions::default()
        });
        let service = Service {
            volumes: vec![volume(Some("data"), "/etc"), nocopy],
            ..script("cat /etc/group; echo more >> /etc/group; echo /hidden/*; busybox ls -lnd /etc | busybox cut -c1-10")
        };
        // Two replicas at once.
        let desired = desired(&service);
        let creation = bench.creation(&service, &desired);
        let (one, two) = tokio::join!(bench.create_as(&creation), bench.create_as(&creation));
        let (one, two) = (one.unwrap(), two.unwrap());
        let first = bench.run(&one).await.output;
        assert_eq!(first, "top\n/hidden/*\ndrwxr-xr-x\n");
        let second = bench.run(&two).await.output;
        assert_eq!(second, "top\nmore\n/hidden/*\ndrwxr-xr-x\n");

        assert_eq!(bench.containers.volumes().unwrap().len(), 3);
        let error = bench.containers.remove_volume("shop_data").await.unwrap_err();
        assert_eq!(error.to_string(), "volume `shop_data` is in use by shop-web-1, shop-web-1");
        for id in [&one, &two] {
            bench.containers.remove(id, true).await.unwrap();
            bench.containers.remove(id, true).await.unwrap();
        }
        let left = bench.containers.volumes().unwrap();
        assert_eq!(left.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["shop_data"]);
        bench.containers.remove_volume("shop_data").await.unwrap();
        bench.containers.remove_volume("shop_data").await.unwrap();
    }))
    .await;
    bench.finish().await;
}

#[tokio::test]
async fn an_image_is_mounted_and_what_is_written_there_goes() {
    let bench = Bench::start().await;
    patiently(Box::pin(async {
        let image = |target: &str, read_only| Mount {
            kind: MountKind::Image,
            source: Some("oci-archive:box.tar".into()),
            target: target.into(),
            read_only,
            ..Mount::default()
        };
        let service = Service {
            volumes: vec![image("/other", false), image("/fixed", true)],
            ..script(
                "cat /other/etc/group; echo x > /other/new && echo written; echo x > /fixed/new",
            )
        };
        for _ in 0..2 {
            let Run { output, .. } = bench.once(&service).await;
            assert!(output.starts_with("top\nwritten\n"), "{output}");
            assert!(
                output.contains("/fixed/new: Read-only file system"),
                "{output}"
            );
        }
        let left = bench.world.engine.snapshots(&[]).await.unwrap();
        assert!(
            left.iter()
                .all(|snapshot| !snapshot.key.contains("-image-")),
            "{left:?}"
        );
    }))
    .await;
    bench.finish().await;
}
