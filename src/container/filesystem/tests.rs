use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn files(folder: &tempfile::TempDir) -> FileSystem {
    FileSystem::of_folder(folder.path()).unwrap()
}

fn root_file(mode: u32) -> Attributes {
    Attributes::file(mode)
}

fn write(files: &FileSystem, path: &str, text: &str) -> io::Result<()> {
    files.put_file(Path::new(path), &mut text.as_bytes(), &root_file(0o644))
}

fn read(files: &FileSystem, path: &str) -> String {
    io::read_to_string(files.open(Path::new(path)).unwrap()).unwrap()
}

/// An archive of one entry whose name and target nobody has checked.
fn archive(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_mtime(7);
        header.set_uid(5);
        header.set_gid(6);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let is_file = *kind == tar::EntryType::Regular;
        if is_file {
            header.set_size(content.len() as u64);
        } else {
            header.set_size(0);
            header.as_gnu_mut().unwrap().linkname[..content.len()]
                .copy_from_slice(content.as_bytes());
        }
        header.set_cksum();
        let data = if is_file { content } else { "" };
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn extract(
    files: &FileSystem,
    path: &str,
    untrusted: bool,
    entries: &[(tar::EntryType, &str, &str)],
) -> io::Result<Unpacked> {
    let options = UnpackOptions {
        owner: untrusted.then_some((0, 0)),
        untrusted,
    };
    unpack(
        files,
        Path::new(path),
        options,
        &mut Cursor::new(archive(entries)),
    )
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;
const FOLDER: tar::EntryType = tar::EntryType::Directory;

#[test]
fn files_folders_and_links_are_put_read_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    files
        .make_folders(Path::new("/a/b"), &Attributes::folder(0o750))
        .unwrap();
    write(&files, "a/b/f", "one").unwrap();
    write(&files, "/a/b/f", "two").unwrap();
    assert_eq!(read(&files, "/a/b/f"), "two");
    let link = Path::new("/a/l");
    files
        .put_link(link, Path::new("b/f"), &root_file(0o777))
        .unwrap();
    assert_eq!(files.read_link(link).unwrap(), Path::new("b/f"));
    assert_eq!(files.kind(link, false).unwrap(), Some(FileKind::Link));
    assert_eq!(files.kind(link, true).unwrap(), Some(FileKind::Regular));
    assert_eq!(read(&files, "/a/l"), "two");
    let attributes = files.attributes(Path::new("a/b")).unwrap().unwrap();
    assert_eq!((attributes.mode, attributes.owner), (0o750, Some((0, 0))));
    assert!(write(&files, "/a/b", "x").is_err(), "a folder was replaced");
    files.remove(Path::new("/a")).unwrap();
    files.remove(Path::new("/a")).unwrap();
    files.remove(Path::new("/x/y")).unwrap();
    assert_eq!(files.kind(Path::new("/a"), true).unwrap(), None);
    assert!(files.remove(Path::new("/")).is_err());
    // No temporary name is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn no_path_and_no_link_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    symlink(outside.path(), folder.path().join("absolute")).unwrap();
    symlink("../../../../../../etc", folder.path().join("relative")).unwrap();
    symlink("/proc/self/root", folder.path().join("magic")).unwrap();
    for path in ["absolute/f", "relative/f", "magic/f", "/absolute/../../f/x"] {
        assert!(write(&files, path, "x").is_err(), "{path}");
        assert!(files.open(Path::new(path)).is_err(), "{path}");
    }
    write(&files, "../../../../f", "x").unwrap();
    assert!(folder.path().join("f").exists());
    // The link itself is removed, and replaced.
    files.remove(Path::new("absolute")).unwrap();
    write(&files, "relative", "x").unwrap();
    assert!(outside.path().exists());
    assert!(folder.path().join("relative").is_file());
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn a_device_is_never_opened() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    let null = rustix::fs::makedev(1, 3);
    let kind = FileType::CharacterDevice;
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, folder.path().join("d"), kind, mode, null).unwrap();
    rustix::fs::mknodat(CWD, folder.path().join("p"), FileType::Fifo, mode, 0).unwrap();
    for name in ["d", "p"] {
        let error = files.open(Path::new(name)).unwrap_err();
        assert_eq!(error.to_string(), "it is no regular file");
    }
    // The archive has them as what they are.
    let mut bytes = Vec::new();
    pack(&files, Path::new("."), Path::new("x"), &mut bytes).unwrap();
    let target = tempfile::tempdir().unwrap();
    let untrusted = UnpackOptions {
        owner: None,
        untrusted: true,
    };
    let to = self::files(&target);
    let unpacked = unpack(&to, Path::new("."), untrusted, &mut bytes.as_slice()).unwrap();
    assert_eq!(unpacked.left_out, [Path::new("x/d")]);
    assert!(!target.path().join("x/d").exists());
    let trusted = UnpackOptions::default();
    unpack(&to, Path::new("."), trusted, &mut bytes.as_slice())
        .map(drop)
        .unwrap();
    let device = std::fs::metadata(target.path().join("x/d")).unwrap();
    assert!(device.file_type().is_char_device());
    assert_eq!(device.rdev(), null);
}

#[test]
fn a_tree_survives_being_packed_and_unpacked() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    std::fs::create_dir_all(root.join("top/deep")).unwrap();
    std::fs::write(root.join("top/deep/f"), "text").unwrap();
    std::fs::set_permissions(
        root.join("top/deep/f"),
        std::fs::Permissions::from_mode(0o4751),
    )
    .unwrap();
    std::os::unix::fs::chown(root.join("top/deep/f"), Some(5), Some(6)).unwrap();
    std::fs::set_permissions(
        root.join("top/deep/f"),
        std::fs::Permissions::from_mode(0o4751),
    )
    .unwrap();
    std::fs::hard_link(root.join("top/deep/f"), root.join("top/hard")).unwrap();
    symlink("/etc/passwd", root.join("top/link")).unwrap();
    let long = "n".repeat(120);
    std::fs::write(root.join("top").join(&long), "").unwrap();
    let file = root.join("top/deep/f");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&file, "user.note", b"x", flags).unwrap();
    rustix::fs::setxattr(&file, "trusted.note", b"x", flags).unwrap();
    let sparse = File::create(root.join("top/sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (8 << 20) - 3).unwrap();

    let mut bytes = Vec::new();
    let (path, name) = (Path::new("/top"), Path::new("new"));
    pack(&files(&source), path, name, &mut bytes).unwrap();
    assert!(bytes.len() < 1 << 20, "holes take room in the archive");
    let target = tempfile::tempdir().unwrap();
    let to = files(&target);
    let _unpacked = unpack(
        &to,
        Path::new("/"),
        UnpackOptions::default(),
        &mut bytes.as_slice(),
    )
    .unwrap();

    let at = |path: &str| target.path().join("new").join(path);
    let found = std::fs::metadata(at("deep/f")).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o7777),
        (5, 6, 0o4751)
    );
    assert_eq!(found.ino(), std::fs::metadata(at("hard")).unwrap().ino());
    let before = std::fs::metadata(root.join("top/deep")).unwrap();
    let after = std::fs::metadata(at("deep")).unwrap();
    assert_eq!(before.mtime(), after.mtime());
    assert_eq!(
        std::fs::read_link(at("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert!(at(&long).exists());
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(at("deep/f"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"x");
    assert!(rustix::fs::getxattr(at("deep/f"), "trusted.note", &mut value).is_err());
    let holes = std::fs::metadata(at("sparse")).unwrap();
    assert_eq!(holes.len(), 8 << 20);
    assert!(holes.blocks() * 512 < 1 << 20, "the holes were filled");
    assert!(std::fs::read(at("sparse")).unwrap().ends_with(b"\0end"));
}

#[test]
fn what_others_made_brings_no_rights_along() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    let _unpacked = extract(&files, "/", true, &[(FILE, "f", "x")]).unwrap();
    let found = std::fs::metadata(folder.path().join("f")).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o7777),
        (0, 0, 0o755)
    );
}

#[test]
fn an_archive_cannot_lead_out_of_its_destination() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("in")).unwrap();
    std::fs::create_dir_all(folder.path().join("secret")).unwrap();
    std::fs::write(folder.path().join("secret/key"), "mine").unwrap();
    let files = files(&folder);
    let refused: [&[(tar::EntryType, &str, &str)]; 6] = [
        &[(FILE, "../secret/key", "x")],
        &[(FILE, "a/../../secret/key", "x")],
        &[(LINK, "l", "../secret"), (FILE, "l/key", "x")],
        &[(LINK, "l2", "/secret"), (FOLDER, "l2", "")],
        &[(HARD, "h", "../secret/key")],
        &[(LINK, "l3", "/secret"), (HARD, "h", "l3/key")],
    ];
    for entries in refused {
        let result = extract(&files, "/in", false, entries);
        assert!(result.is_err(), "{entries:?}");
    }
    // As with every tar, a leading slash means nothing.
    let _unpacked = extract(&files, "/in", false, &[(FILE, "/etc/f", "x")]).unwrap();
    assert!(folder.path().join("in/etc/f").exists());
    let key = std::fs::read_to_string(folder.path().join("secret/key")).unwrap();
    assert_eq!(key, "mine");
    assert_eq!(
        std::fs::read_dir(folder.path().join("secret"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn files_do_not_replace_folders_nor_the_reverse() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    std::fs::write(folder.path().join("f"), "x").unwrap();
    let files = files(&folder);
    let error = extract(&files, "/", false, &[(FILE, "d", "x")]).unwrap_err();
    assert!(error.to_string().starts_with("cannot overwrite directory"));
    let error = extract(&files, "/", false, &[(FOLDER, "f", "")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot overwrite non-directory")
    );
}

#[test]
fn a_folder_that_becomes_a_link_meanwhile_leads_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (real, swapped) = (folder.path().join("d"), folder.path().join("away"));
    std::fs::create_dir(&real).unwrap();
    let files = files(&folder);
    let done = AtomicBool::new(false);
    let bytes = archive(&[(FOLDER, "d", ""), (FILE, "d/f", "x"), (FILE, "d/g/h", "x")]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Each step may find the other side's work in the way.
                std::fs::rename(&real, &swapped).ok();
                symlink(outside.path(), &real).ok();
                std::fs::remove_file(&real).ok();
                std::fs::rename(&swapped, &real).ok();
                std::fs::remove_dir_all(&swapped).ok();
            }
        });
        for _ in 0..2000 {
            let options = UnpackOptions::default();
            unpack(&files, Path::new("/"), options, &mut bytes.as_slice())
                .map(drop)
                .ok();
            write(&files, "d/x", "x").ok();
            files.remove(Path::new("d/x")).ok();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn the_kernel_s_own_file_systems_are_not_copied_but_a_file_of_theirs_is() {
    let host = FileSystem::of_folder(Path::new("/")).unwrap();
    let mut bytes = Vec::new();
    pack(&host, Path::new("/proc"), Path::new("p"), &mut bytes).unwrap();
    assert_eq!(
        tar::Archive::new(bytes.as_slice())
            .entries()
            .unwrap()
            .count(),
        1
    );
    let mut bytes = Vec::new();
    let version = Path::new("/proc/version");
    pack(&host, version, Path::new("v"), &mut bytes).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert!(io::read_to_string(entry).unwrap().starts_with("Linux"));
}

#[test]
fn a_file_that_is_a_mount_point_is_rewritten_and_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("source"), "old").unwrap();
    std::fs::write(folder.path().join("target"), "covered").unwrap();
    let at = |name: &str| folder.path().join(name);
    // Seen from another mount namespace, as that of a container is.
    let root = std::thread::scope(|scope| {
        let mounted = scope.spawn(|| {
            crate::sys::unshare_mounts()?;
            rustix::mount::mount_bind(at("source"), at("target"))?;
            open::detached(folder.path())
        });
        mounted.join().unwrap().unwrap()
    });
    let files = FileSystem::new(root);
    write(&files, "target", "new").unwrap();
    assert_eq!(std::fs::read_to_string(at("source")).unwrap(), "new");
    assert_eq!(std::fs::read_to_string(at("target")).unwrap(), "covered");
    assert!(files.remove(Path::new("target")).is_err());
    let link = files.put_link(Path::new("target"), Path::new("x"), &root_file(0o777));
    assert!(link.is_err());
    assert_eq!(read(&files, "target"), "new");
}
