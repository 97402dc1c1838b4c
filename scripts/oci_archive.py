"""OCI image archives, made from Python without a registry, a daemon or root."""

import functools
import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = "1970-01-01T00:00:00Z"
COMPRESSION = 1  # these archives do not travel far, and making them should be quick


class Layer:
    """A file system layer; the last entry added for a path is the one that counts."""

    def __init__(self):
        self.entries = {}

    def add(self, path, kind, mode, uid=0, data=b"", target=""):
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.linkname = kind, mode, target
        entry.uid = entry.gid = uid
        entry.size = len(data)
        self.entries[path] = (entry, data)

    def add_folder(self, path, mode=0o755, uid=0):
        self.add(path, tarfile.DIRTYPE, mode, uid)

    def add_file(self, path, data, mode=0o644):
        self.add(path, tarfile.REGTYPE, mode, data=data)

    def add_link(self, path, target):
        self.add(path, tarfile.SYMTYPE, 0o777, target=target)

    def add_tree(self, root):
        """Adds what lies under a folder of the host, owned by root."""
        for host in sorted(pathlib.Path(root).rglob("*")):
            path = host.relative_to(root).as_posix()
            if host.is_symlink():
                self.add_link(path, os.readlink(host))
            elif host.is_dir():
                if path not in self.entries:
                    self.add_folder(path)
            else:
                executable = host.stat().st_mode & 0o100
                self.add_file(path, host.read_bytes(), 0o755 if executable else 0o644)

    def tar(self):
        return tar(self.entries[path] for path in sorted(self.entries))


def tar(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry, data in entries:
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def full_reference(name):
    """Completes a short name as Docker does."""
    first = name.split("/", 1)[0]
    if "/" not in name:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    return name if ":" in name.rsplit("/", 1)[1] else f"{name}:latest"


def path_of(descriptor):
    return "blobs/" + descriptor["digest"].replace(":", "/")


@functools.cache
def compressed(layer):
    """A layer that several images share is compressed once."""
    return gzip.compress(layer, COMPRESSION, mtime=0)


def archive(name, settings, layers, maker):
    """The archive's bytes. The layers are tar files, `settings` is the `config` of the image."""
    platform = {"architecture": ARCHITECTURES[os.uname().machine], "os": "linux"}
    blobs = {}

    def blob(media_type, data, **more):
        descriptor = {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "size": len(data),
            **more,
        }
        blobs[path_of(descriptor)] = data
        return descriptor

    def document(media_type, value, **more):
        return blob(media_type, json.dumps(value, indent=2).encode(), **more)

    config = {
        "created": EPOCH,
        **platform,
        "config": settings,
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
        },
        "history": [{"created": EPOCH, "created_by": maker} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": document("config.v1+json", config),
        "layers": [blob("layer.v1.tar+gzip", compressed(layer)) for layer in layers],
    }
    reference = full_reference(name)
    names = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference,
    }
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [document("manifest.v1+json", manifest, platform=platform, annotations=names)],
    }

    # For `docker load`, which does not read the index where Docker keeps images by itself.
    docker = {
        "Config": path_of(manifest["config"]),
        "RepoTags": [reference],
        "Layers": [path_of(layer) for layer in manifest["layers"]],
    }

    result = Layer()
    result.add_folder("blobs")
    result.add_folder("blobs/sha256")
    for path, data in blobs.items():
        result.add_file(path, data)
    result.add_file("index.json", json.dumps(index, indent=2).encode())
    result.add_file("manifest.json", json.dumps([docker], indent=2).encode())
    result.add_file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return result.tar()


def write(path, data):
    """Writes an archive in one step, or leaves alone what has these bytes already."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.rename(path)
