"""A worker whose documents have choices, some of one token each and some not; then the worker's arguments."""

from __future__ import annotations

import dataclasses
import sys

from heterotune import preflight, worker
from heterotune.data.clients_data import FederatedData

build = preflight.build_federated_data
ANSWERS = (" x", " self", " None", " x + 1", " self.x")


def _with_choices(*arguments, **options) -> FederatedData:
    data = build(*arguments, **options)
    documents = []
    for number, document in enumerate(data.heldout_documents):
        of_one_token = [answer for answer in ANSWERS[:3] if answer != document.response]
        others = of_one_token if number % 2 else [a for a in ANSWERS[1:] if a != document.response]
        documents.append(dataclasses.replace(document, choices=(others[0], document.response, *others[1:])))
    return dataclasses.replace(data, heldout_documents=tuple(documents))


preflight.build_federated_data = _with_choices
sys.exit(worker.main(sys.argv[1:]))
