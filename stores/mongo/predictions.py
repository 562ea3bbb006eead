"""digital_twin_predictions: writing what the twin predicted, reading the latest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from pymongo.database import Database

from core.predictions import Prediction
from stores.mongo.newest import newest_documents

Document = dict[str, Any]


def write_predictions(db: Database[Document], predictions: Sequence[Prediction]) -> int:
    """Insert predictions as the contract has them; returns how many."""
    if not predictions:
        return 0
    db["digital_twin_predictions"].insert_many([_document(prediction) for prediction in predictions])
    return len(predictions)


def _document(prediction: Prediction) -> Document:
    return {
        "device_id": prediction.device_id,
        "prediction_timestamp": prediction.prediction_timestamp,
        "horizon_hours": prediction.horizon_hours,
        "initial_state": {
            "soc": float(prediction.soc_pct),
            "soh": float(prediction.soh_pct),
            "temperature": float(prediction.temperature_c),
            "internal_resistance": float(prediction.internal_resistance_ohm),
        },
        "power_profile": prediction.power_profile_w.tolist(),
        "predictions": {
            "voltage_profile": prediction.voltage_profile_v.tolist(),
            "temperature_profile": prediction.temperature_profile_c.tolist(),
            "soc_profile": prediction.soc_profile_pct.tolist(),
            "efficiency_profile": prediction.efficiency_profile.tolist(),
        },
        "degradation_forecast": {name: float(value) for name, value in prediction.degradation.items()},
        "model_metadata": {
            "model_type": prediction.model_type,
            "calibration_date": prediction.calibration_date,
            "calibration_score": prediction.calibration_score,
            "parameters": dict(prediction.parameters),
        },
    }


def latest_predictions(
    db: Database[Document], device_ids: Iterable[str], *, not_after: datetime | None = None
) -> dict[str, Prediction]:
    """The newest prediction of each device (made for a time not after `not_after`); of equal times the last written."""
    found = newest_documents(db, "digital_twin_predictions", "prediction_timestamp", device_ids, not_after=not_after)
    return {document["device_id"]: _prediction(document) for document in found}


def _prediction(document: Document) -> Prediction:
    initial, profiles, meta = document["initial_state"], document["predictions"], document["model_metadata"]
    return Prediction(
        device_id=document["device_id"],
        prediction_timestamp=document["prediction_timestamp"],
        horizon_hours=document["horizon_hours"],
        soc_pct=initial["soc"],
        soh_pct=initial["soh"],
        temperature_c=initial["temperature"],
        internal_resistance_ohm=initial["internal_resistance"],
        power_profile_w=np.asarray(document["power_profile"], dtype=np.float64),
        voltage_profile_v=np.asarray(profiles["voltage_profile"], dtype=np.float64),
        temperature_profile_c=np.asarray(profiles["temperature_profile"], dtype=np.float64),
        soc_profile_pct=np.asarray(profiles["soc_profile"], dtype=np.float64),
        efficiency_profile=np.asarray(profiles["efficiency_profile"], dtype=np.float64),
        degradation=dict(document.get("degradation_forecast", {})),
        model_type=meta["model_type"],
        calibration_date=meta.get("calibration_date"),
        calibration_score=meta.get("calibration_score"),
        parameters=dict(meta.get("parameters") or {}),
    )


def delete_predictions(db: Database[Document], device_ids: Sequence[str]) -> int:
    """Forget predictions of devices; returns the documents."""
    query = {"device_id": {"$in": list(device_ids)}}
    return db["digital_twin_predictions"].delete_many(query).deleted_count
