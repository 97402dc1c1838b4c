#!/usr/bin/env python3
"""Puts an image together from busybox and layers of noise, and into a registry.

put-image.py PORT REPOSITORY:TAG [JSON]

JSON may have
  archive      OCI archive whose layers are the first ones
  whole        true: the archive's image as it is; nothing else then counts
  layers       list of {seed, size, compression: gzip|zstd|none}; the content follows from the seed
  environment  variables of the image, NAME=VALUE
  platforms    more than one makes an index, with an attestation beside the manifests
  config_type, layer_type   other media types
Prints the digest of what the tag points to.
"""

import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request

port, name = sys.argv[1], sys.argv[2]
spec = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
repository, tag = name.rsplit(":", 1)
base = f"http://127.0.0.1:{port}/v2/{repository}"
OCI = "application/vnd.oci.image"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def send(method, url, data=None, kind="application/octet-stream"):
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": kind})
    return urllib.request.urlopen(request)


def blob(data, kind):
    name = digest(data)
    try:
        send("HEAD", f"{base}/blobs/{name}")
    except urllib.error.HTTPError:
        to = send("POST", f"{base}/blobs/uploads/", b"").headers["Location"]
        to = to if "://" in to else f"http://127.0.0.1:{port}{to}"
        send("PUT", f"{to}{'&' if '?' in to else '?'}digest={name}", data)
    return {"mediaType": kind, "digest": name, "size": len(data)}


def manifest(document, name):
    data = json.dumps(document).encode()
    send("PUT", f"{base}/manifests/{name or digest(data)}", data, document["mediaType"])
    return {"mediaType": document["mediaType"], "digest": digest(data), "size": len(data)}


def noise(layer):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(f"layer-{layer['seed']}")
        entry.size = layer["size"]
        tar.addfile(entry, io.BytesIO(random.Random(layer["seed"]).randbytes(layer["size"])))
    return out.getvalue()


layers, diff_ids = [], []
if "archive" in spec:
    with tarfile.open(spec["archive"]) as archive:
        read = lambda d: archive.extractfile("blobs/" + d.replace(":", "/")).read()
        top = json.load(archive.extractfile("index.json"))["manifests"][0]
        document = json.loads(read(top["digest"]))
        while "manifests" in document:
            document = json.loads(read(document["manifests"][0]["digest"]))
        for layer in document["layers"]:
            layers.append(blob(read(layer["digest"]), layer["mediaType"]))
        if spec.get("whole"):
            blob(read(document["config"]["digest"]), document["config"]["mediaType"])
            print(manifest(document, tag)["digest"])
            sys.exit()
        diff_ids += json.loads(read(document["config"]["digest"]))["rootfs"]["diff_ids"]
for layer in spec.get("layers", []):
    plain = noise(layer)
    compression = layer.get("compression", "gzip")
    ending = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression]
    if compression == "gzip":
        data = gzip.compress(plain, 1, mtime=0)
    elif compression == "zstd":
        data = subprocess.run(["zstd", "-q", "-1", "-c"], input=plain, stdout=subprocess.PIPE, check=True).stdout
    else:
        data = plain
    layers.append(blob(data, spec.get("layer_type", f"{OCI}.layer.v1.tar{ending}")))
    diff_ids.append(digest(plain))


def image(platform, name):
    system, architecture = platform.split("/")
    config = {
        "os": system,
        "architecture": architecture,
        "created": "2026-01-02T03:04:05Z",
        "config": {"Env": ["PATH=/bin"] + spec.get("environment", []), "Cmd": ["sleep", "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    kind = spec.get("config_type", f"{OCI}.config.v1+json")
    document = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), kind),
        "layers": layers,
    }
    return manifest(document, name)


platforms = spec.get("platforms", [])
if platforms:
    entries = []
    for platform in platforms:
        system, architecture = platform.split("/")
        entry = image(platform, None)
        entry["platform"] = {"os": system, "architecture": architecture}
        entries.append(entry)
    proof = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blob(b"{}", f"{OCI}.config.v1+json"),
        "layers": [blob(b'{"_type": "proof"}', "application/vnd.in-toto+json")],
    }
    entry = manifest(proof, None)
    entry["platform"] = {"os": "unknown", "architecture": "unknown"}
    entry["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [entry] + entries}
    print(manifest(index, tag)["digest"])
else:
    print(image(spec.get("platform", "linux/amd64"), tag)["digest"])
