"""Renderings for people: tables, trees and short lines."""
