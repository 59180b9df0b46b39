"""A web server of an organisation that is told of alerts: werkzeug over TLS.

    webhook.py serve PORT CERTIFICATE KEY TOKEN FOLDER  keeps what is posted in FOLDER/told, a line each, until it is
                                                        killed; answers what FOLDER/status says, if that is there
    webhook.py verify KEYS FILE                         checks each line as DSSE, by securesystemslib, with the keys of
                                                        `writ trust certificates`
"""

import json
import sys
from pathlib import Path


def serve(port: str, certificate: str, key: str, token: str, folder: str) -> None:
    from werkzeug.serving import make_server
    from werkzeug.wrappers import Request, Response

    told, status = Path(folder, "told"), Path(folder, "status")

    @Request.application
    def application(request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return Response(status=401)
        if request.method != "POST" or request.full_path != "/hook?team=a":
            return Response(status=404)
        if status.exists():
            return Response(status=int(status.read_text()))
        with told.open("a") as file:
            file.write(request.get_data(as_text=True) + "\n")
        return Response(status=204)

    make_server("localhost", int(port), application, ssl_context=(certificate, key)).serve_forever()


def verify(keys: str, file: str) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    known = []
    for row in json.loads(Path(keys).read_text()):
        public = load_pem_public_key(row["public_key"].encode())
        known.append(SSlibKey.from_crypto(public, keyid=row["key_id"]))
    for line in Path(file).read_text().splitlines():
        Envelope.from_dict(json.loads(line)).verify(known, 1)


if __name__ == "__main__":
    {"serve": serve, "verify": verify}[sys.argv[1]](*sys.argv[2:])
