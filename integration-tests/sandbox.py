"""A sandbox that feeds a manager: medallion, the reference server of TAXII 2.1, with one collection.

    sandbox.py serve PORT CERTIFICATE KEY PASSWORD-FILE  on the loopback, over TLS, until it is killed
    sandbox.py add URL CA PASSWORD-FILE FILE             adds the objects of an envelope, as an analysis does

The user is `op`.
"""

import base64
import json
import logging
import ssl
import sys
import urllib.request
from pathlib import Path

ROOT = "analyses"
COLLECTION = "91a7b528-80eb-42ed-a74d-c6fbd5a26116"
USER = "op"
TAXII = "application/taxii+json;version=2.1"
# So small that a collection of a few objects has several pages.
PAGE = 3


def serve(port: str, certificate: str, key: str, password: str) -> None:
    from medallion import application_instance as sandbox
    from medallion import register_blueprints, set_config
    from werkzeug.serving import make_server

    collection = {
        "id": COLLECTION,
        "title": "what was analysed",
        "can_read": True,
        "can_write": True,
        "media_types": ["application/stix+json;version=2.1"],
        "objects": [],
        "manifest": [],
    }
    data = {
        "/discovery": {"title": "sandbox", "default": f"/{ROOT}/", "api_roots": [f"/{ROOT}/"]},
        ROOT: {
            "information": {"title": "analyses", "versions": [TAXII], "max_content_length": 9765625},
            "status": [],
            "collections": [collection],
        },
    }
    file = Path(password).with_suffix(".collection.json")
    file.write_text(json.dumps(data))
    backend = {"module": "medallion.backends.memory_backend", "module_class": "MemoryBackend", "filename": str(file)}
    config = {
        "users": {USER: Path(password).read_text().strip()},
        "taxii": {"max_page_size": PAGE},
        "backend": backend,
    }
    for part in config:
        set_config(sandbox, part, config)
    register_blueprints(sandbox)
    logging.getLogger("werkzeug").setLevel(logging.INFO)
    make_server("127.0.0.1", int(port), sandbox, threaded=True, ssl_context=(certificate, key)).serve_forever()


def add(url: str, authority: str, password: str, file: str) -> None:
    login = base64.b64encode(f"{USER}:{Path(password).read_text().strip()}".encode()).decode()
    headers = {"Accept": TAXII, "Content-Type": TAXII, "Authorization": f"Basic {login}"}
    content = Path(file).read_bytes()
    request = urllib.request.Request(f"{url}objects/", data=content, headers=headers, method="POST")
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=authority)) as answer:
        status = json.load(answer)
    if status["failure_count"]:
        sys.exit(f"not taken: {status}")


{"serve": serve, "add": add}[sys.argv[1]](*sys.argv[2:])
