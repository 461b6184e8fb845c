"""dispatcherd by its former name, for projects that import `dispatcher`: the same modules, not copies with a registry of their own."""

import importlib
import importlib.util
import sys

import dispatcherd


class Alias:
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name.startswith("dispatcher.") else None

    def create_module(self, spec):
        module = importlib.import_module("dispatcherd" + spec.name[len("dispatcher") :])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state  # it stays what it was


sys.meta_path.insert(0, Alias())
sys.modules[__name__] = dispatcherd
